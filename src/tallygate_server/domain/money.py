"""Amounts of money as people write them, turned into minor units exactly.

Currencies and their decimal places are those of ISO 4217, list one (active codes of countries' currencies).
"""

from __future__ import annotations

import re
from typing import Final

AMOUNT_MINOR_MAX: Final = 1_000_000_000_000

_DECIMALS_DEFAULT: Final = 2
_WITHOUT_DECIMALS = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_WITH_THREE = "BHD IQD JOD KWD LYD OMR TND"
_WITH_FOUR = "CLF UYW"
_WITH_TWO = """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF
    CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ
    GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD
    MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON
    RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS
    UAH USD USN UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG
"""
_DECIMALS: Final = {
    currency: places
    for places, currencies in ((0, _WITHOUT_DECIMALS), (2, _WITH_TWO), (3, _WITH_THREE), (4, _WITH_FOUR))
    for currency in currencies.split()
}
CURRENCIES: Final = frozenset(_DECIMALS)

_AMOUNT = re.compile(r"(0|[1-9][0-9]{0,12})(?:\.([0-9]{1,20}))?")


class AmountRefused(ValueError):
    """The text is not an exact amount of the currency; the message says why."""


def decimal_places(currency: str) -> int:
    """Return how many decimal places the currency's amounts have: 2 for USD, 0 for JPY."""
    return _DECIMALS.get(currency, _DECIMALS_DEFAULT)


def parse_amount(text: str, currency: str) -> int:
    """Return the amount in the currency's minor unit, exactly; raise AmountRefused where it is not one.

    `9.99` USD is 999, `9.9` USD is 990, `980` JPY is 980; nothing is ever rounded.
    """
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise AmountRefused(f"{text[:40]!r} is not an amount: write it like 9.99, without sign, exponent or separators")
    whole, fraction = match.group(1), match.group(2) or ""
    places = decimal_places(currency)
    if len(fraction) > places:
        places_text = f"{places} decimal places" if places else "no decimal places"
        raise AmountRefused(f"{text[:40]!r} is too precise: amounts in {currency} have {places_text}")
    amount = int(whole + fraction.ljust(places, "0"))
    if amount > AMOUNT_MINOR_MAX:
        raise AmountRefused(f"{text[:40]!r} is above the largest amount, {format_amount(AMOUNT_MINOR_MAX, currency)}")
    return amount


def format_amount(amount_minor: int, currency: str) -> str:
    """Write minor units as decimal text that `parse_amount` reads back: 999 USD is `9.99`."""
    places = decimal_places(currency)
    digits = str(abs(amount_minor)).rjust(places + 1, "0")
    sign = "-" if amount_minor < 0 else ""
    return f"{sign}{digits[:-places]}.{digits[-places:]}" if places else f"{sign}{digits}"
