"""Money: what accounts pay for at a billing provider, and how that becomes access."""
