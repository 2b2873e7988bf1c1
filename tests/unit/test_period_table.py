"""Every kind of period in a table worked out by hand: month ends, leap years, changes of clocks, zones at all edges.

All instants are in UTC. A calendar of UTC is that of the zone UTC; lifetimes have no edges.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from tallygate_server.domain.period import LIFETIME, Period, PeriodAnchor, PeriodKind, period_at

KINDS = {kind.name.lower(): kind for kind in PeriodKind}
MOMENT = timedelta(microseconds=1)

# kind  zone of the account   instant               first instant         first instant after
CALENDAR = """
# UTC, in the last second of a leap day
hour  UTC                   2024-02-29T23:59:59   2024-02-29T23:00      2024-03-01
day   UTC                   2024-02-29T23:59:59   2024-02-29            2024-03-01
week  UTC                   2024-02-29T23:59:59   2024-02-26            2024-03-04
month UTC                   2024-02-29T23:59:59   2024-02-01            2024-03-01
year  UTC                   2024-02-29T23:59:59   2024-01-01            2025-01-01
# UTC, at the boundary itself
hour  UTC                   2024-03-01            2024-03-01            2024-03-01T01:00
day   UTC                   2024-03-01            2024-03-01            2024-03-02
week  UTC                   2024-03-01            2024-02-26            2024-03-04
month UTC                   2024-03-01            2024-03-01            2024-04-01
year  UTC                   2024-03-01            2024-01-01            2025-01-01
# east of UTC by hours and a half
hour  Asia/Kolkata          2026-07-01T18:29:59   2026-07-01T17:30      2026-07-01T18:30
day   Asia/Kolkata          2026-07-01T18:29:59   2026-06-30T18:30      2026-07-01T18:30
week  Asia/Kolkata          2026-07-01T18:29:59   2026-06-28T18:30      2026-07-05T18:30
month Asia/Kolkata          2026-07-01T18:29:59   2026-06-30T18:30      2026-07-31T18:30
year  Asia/Kolkata          2026-07-01T18:29:59   2025-12-31T18:30      2026-12-31T18:30
hour  Asia/Kolkata          2026-07-01T18:30      2026-07-01T18:30      2026-07-01T19:30
day   Asia/Kolkata          2026-07-01T18:30      2026-07-01T18:30      2026-07-02T18:30
week  Asia/Kolkata          2026-07-01T18:30      2026-06-28T18:30      2026-07-05T18:30
month Asia/Kolkata          2026-07-01T18:30      2026-06-30T18:30      2026-07-31T18:30
year  Asia/Kolkata          2026-07-01T18:30      2025-12-31T18:30      2026-12-31T18:30
# by hours and three quarters
hour  Asia/Kathmandu        2026-07-01T18:14:59   2026-07-01T17:15      2026-07-01T18:15
day   Asia/Kathmandu        2026-07-01T18:14:59   2026-06-30T18:15      2026-07-01T18:15
hour  Asia/Kathmandu        2026-07-01T18:15      2026-07-01T18:15      2026-07-01T19:15
day   Asia/Kathmandu        2026-07-01T18:15      2026-07-01T18:15      2026-07-02T18:15
# by nearly 14 hours, in summer
hour  Pacific/Chatham       2026-01-01            2025-12-31T23:15      2026-01-01T00:15
day   Pacific/Chatham       2026-01-01            2025-12-31T10:15      2026-01-01T10:15
week  Pacific/Chatham       2026-01-01            2025-12-28T10:15      2026-01-04T10:15
month Pacific/Chatham       2026-01-01            2025-12-31T10:15      2026-01-31T10:15
year  Pacific/Chatham       2026-01-01            2025-12-31T10:15      2026-12-31T10:15
# the furthest east there is
hour  Pacific/Kiritimati    2025-12-31T09:59:59   2025-12-31T09:00      2025-12-31T10:00
day   Pacific/Kiritimati    2025-12-31T09:59:59   2025-12-30T10:00      2025-12-31T10:00
week  Pacific/Kiritimati    2025-12-31T09:59:59   2025-12-28T10:00      2026-01-04T10:00
month Pacific/Kiritimati    2025-12-31T09:59:59   2025-11-30T10:00      2025-12-31T10:00
year  Pacific/Kiritimati    2025-12-31T09:59:59   2024-12-31T10:00      2025-12-31T10:00
hour  Pacific/Kiritimati    2025-12-31T10:00      2025-12-31T10:00      2025-12-31T11:00
day   Pacific/Kiritimati    2025-12-31T10:00      2025-12-31T10:00      2026-01-01T10:00
week  Pacific/Kiritimati    2025-12-31T10:00      2025-12-28T10:00      2026-01-04T10:00
month Pacific/Kiritimati    2025-12-31T10:00      2025-12-31T10:00      2026-01-31T10:00
year  Pacific/Kiritimati    2025-12-31T10:00      2025-12-31T10:00      2026-12-31T10:00
# the furthest west there is
hour  Etc/GMT+12            2026-01-01T11:59:59   2026-01-01T11:00      2026-01-01T12:00
day   Etc/GMT+12            2026-01-01T11:59:59   2025-12-31T12:00      2026-01-01T12:00
week  Etc/GMT+12            2026-01-01T11:59:59   2025-12-29T12:00      2026-01-05T12:00
month Etc/GMT+12            2026-01-01T11:59:59   2025-12-01T12:00      2026-01-01T12:00
year  Etc/GMT+12            2026-01-01T11:59:59   2025-01-01T12:00      2026-01-01T12:00
hour  Etc/GMT+12            2026-01-01T12:00      2026-01-01T12:00      2026-01-01T13:00
day   Etc/GMT+12            2026-01-01T12:00      2026-01-01T12:00      2026-01-02T12:00
week  Etc/GMT+12            2026-01-01T12:00      2025-12-29T12:00      2026-01-05T12:00
month Etc/GMT+12            2026-01-01T12:00      2026-01-01T12:00      2026-02-01T12:00
year  Etc/GMT+12            2026-01-01T12:00      2026-01-01T12:00      2027-01-01T12:00
# west of UTC: clocks go forward, the day has 23 hours
hour  America/New_York      2026-03-08T06:59:59   2026-03-08T06:00      2026-03-08T07:00
day   America/New_York      2026-03-08T06:59:59   2026-03-08T05:00      2026-03-09T04:00
week  America/New_York      2026-03-08T06:59:59   2026-03-02T05:00      2026-03-09T04:00
month America/New_York      2026-03-08T06:59:59   2026-03-01T05:00      2026-04-01T04:00
year  America/New_York      2026-03-08T06:59:59   2026-01-01T05:00      2027-01-01T05:00
hour  America/New_York      2026-03-08T07:00      2026-03-08T07:00      2026-03-08T08:00
day   America/New_York      2026-03-08T07:00      2026-03-08T05:00      2026-03-09T04:00
week  America/New_York      2026-03-08T07:00      2026-03-02T05:00      2026-03-09T04:00
month America/New_York      2026-03-08T07:00      2026-03-01T05:00      2026-04-01T04:00
year  America/New_York      2026-03-08T07:00      2026-01-01T05:00      2027-01-01T05:00
# and back, it has 25, and the hour that comes twice is two
hour  America/New_York      2026-11-01T05:30      2026-11-01T05:00      2026-11-01T06:00
day   America/New_York      2026-11-01T05:30      2026-11-01T04:00      2026-11-02T05:00
week  America/New_York      2026-11-01T05:30      2026-10-26T04:00      2026-11-02T05:00
month America/New_York      2026-11-01T05:30      2026-11-01T04:00      2026-12-01T05:00
year  America/New_York      2026-11-01T05:30      2026-01-01T05:00      2027-01-01T05:00
hour  America/New_York      2026-11-01T06:30      2026-11-01T06:00      2026-11-01T07:00
day   America/New_York      2026-11-01T06:30      2026-11-01T04:00      2026-11-02T05:00
week  America/New_York      2026-11-01T06:30      2026-10-26T04:00      2026-11-02T05:00
month America/New_York      2026-11-01T06:30      2026-11-01T04:00      2026-12-01T05:00
year  America/New_York      2026-11-01T06:30      2026-01-01T05:00      2027-01-01T05:00
# east and west of one boundary: the day begins as UTC's does, and ends before
hour  Europe/London         2026-03-29T00:59:59   2026-03-29            2026-03-29T01:00
day   Europe/London         2026-03-29T00:59:59   2026-03-29            2026-03-29T23:00
week  Europe/London         2026-03-29T00:59:59   2026-03-23            2026-03-29T23:00
month Europe/London         2026-03-29T00:59:59   2026-03-01            2026-03-31T23:00
hour  Europe/London         2026-03-29T01:00      2026-03-29T01:00      2026-03-29T02:00
day   Europe/London         2026-03-29T01:00      2026-03-29            2026-03-29T23:00
week  Europe/London         2026-03-29T01:00      2026-03-23            2026-03-29T23:00
month Europe/London         2026-03-29T01:00      2026-03-01            2026-03-31T23:00
# clocks go forward at midnight: that day begins at one
hour  America/Sao_Paulo     2018-11-04T02:59:59   2018-11-04T02:00      2018-11-04T03:00
day   America/Sao_Paulo     2018-11-04T02:59:59   2018-11-03T03:00      2018-11-04T03:00
week  America/Sao_Paulo     2018-11-04T02:59:59   2018-10-29T03:00      2018-11-05T02:00
month America/Sao_Paulo     2018-11-04T02:59:59   2018-11-01T03:00      2018-12-01T02:00
hour  America/Sao_Paulo     2018-11-04T03:00      2018-11-04T03:00      2018-11-04T04:00
day   America/Sao_Paulo     2018-11-04T03:00      2018-11-04T03:00      2018-11-05T02:00
week  America/Sao_Paulo     2018-11-04T03:00      2018-10-29T03:00      2018-11-05T02:00
month America/Sao_Paulo     2018-11-04T03:00      2018-11-01T03:00      2018-12-01T02:00
# the same on a Friday
hour  Africa/Cairo          2026-04-23T21:59:59   2026-04-23T21:00      2026-04-23T22:00
day   Africa/Cairo          2026-04-23T21:59:59   2026-04-22T22:00      2026-04-23T22:00
week  Africa/Cairo          2026-04-23T21:59:59   2026-04-19T22:00      2026-04-26T21:00
month Africa/Cairo          2026-04-23T21:59:59   2026-03-31T22:00      2026-04-30T21:00
hour  Africa/Cairo          2026-04-23T22:00      2026-04-23T22:00      2026-04-23T23:00
day   Africa/Cairo          2026-04-23T22:00      2026-04-23T22:00      2026-04-24T21:00
week  Africa/Cairo          2026-04-23T22:00      2026-04-19T22:00      2026-04-26T21:00
month Africa/Cairo          2026-04-23T22:00      2026-03-31T22:00      2026-04-30T21:00
# and back at the end of a day, into its last hour
hour  Africa/Cairo          2026-10-29T20:30      2026-10-29T20:00      2026-10-29T21:00
day   Africa/Cairo          2026-10-29T20:30      2026-10-28T21:00      2026-10-29T22:00
hour  Africa/Cairo          2026-10-29T21:30      2026-10-29T21:00      2026-10-29T22:00
day   Africa/Cairo          2026-10-29T21:30      2026-10-28T21:00      2026-10-29T22:00
hour  Africa/Cairo          2026-10-29T22:00      2026-10-29T22:00      2026-10-29T23:00
day   Africa/Cairo          2026-10-29T22:00      2026-10-29T22:00      2026-10-30T22:00
# the same on a Sunday
day   Asia/Beirut           2026-03-28T21:59:59   2026-03-27T22:00      2026-03-28T22:00
week  Asia/Beirut           2026-03-28T21:59:59   2026-03-22T22:00      2026-03-29T21:00
month Asia/Beirut           2026-03-28T21:59:59   2026-02-28T22:00      2026-03-31T21:00
day   Asia/Beirut           2026-03-28T22:00      2026-03-28T22:00      2026-03-29T21:00
week  Asia/Beirut           2026-03-28T22:00      2026-03-22T22:00      2026-03-29T21:00
month Asia/Beirut           2026-03-28T22:00      2026-02-28T22:00      2026-03-31T21:00
# an hour that is UTC's midnight; and back over midnight
hour  Atlantic/Azores       2026-03-29T00:59:59   2026-03-29            2026-03-29T01:00
day   Atlantic/Azores       2026-03-29T00:59:59   2026-03-28T01:00      2026-03-29T01:00
week  Atlantic/Azores       2026-03-29T00:59:59   2026-03-23T01:00      2026-03-30
hour  Atlantic/Azores       2026-03-29T01:00      2026-03-29T01:00      2026-03-29T02:00
day   Atlantic/Azores       2026-03-29T01:00      2026-03-29T01:00      2026-03-30
week  Atlantic/Azores       2026-03-29T01:00      2026-03-23T01:00      2026-03-30
hour  Atlantic/Azores       2026-10-25T00:30      2026-10-25            2026-10-25T01:00
day   Atlantic/Azores       2026-10-25T00:30      2026-10-25            2026-10-26T01:00
week  Atlantic/Azores       2026-10-25T00:30      2026-10-19            2026-10-26T01:00
hour  Atlantic/Azores       2026-10-25T01:30      2026-10-25T01:00      2026-10-25T02:00
day   Atlantic/Azores       2026-10-25T01:30      2026-10-25            2026-10-26T01:00
week  Atlantic/Azores       2026-10-25T01:30      2026-10-19            2026-10-26T01:00
# midnight comes twice: the day begins with the first
hour  America/Havana        2026-11-01T04:30      2026-11-01T04:00      2026-11-01T05:00
day   America/Havana        2026-11-01T04:30      2026-11-01T04:00      2026-11-02T05:00
week  America/Havana        2026-11-01T04:30      2026-10-26T04:00      2026-11-02T05:00
month America/Havana        2026-11-01T04:30      2026-11-01T04:00      2026-12-01T05:00
hour  America/Havana        2026-11-01T05:30      2026-11-01T05:00      2026-11-01T06:00
day   America/Havana        2026-11-01T05:30      2026-11-01T04:00      2026-11-02T05:00
week  America/Havana        2026-11-01T05:30      2026-10-26T04:00      2026-11-02T05:00
month America/Havana        2026-11-01T05:30      2026-11-01T04:00      2026-12-01T05:00
# set back a minute after midnight: the day has begun, whatever clocks show then
hour  America/St_Johns      2009-11-01T02:30:30   2009-11-01T02:30      2009-11-01T03:30
day   America/St_Johns      2009-11-01T02:30:30   2009-11-01T02:30      2009-11-02T03:30
month America/St_Johns      2009-11-01T02:30:30   2009-11-01T02:30      2009-12-01T03:30
hour  America/St_Johns      2009-11-01T02:31      2009-11-01T02:30      2009-11-01T03:30
day   America/St_Johns      2009-11-01T02:31      2009-11-01T02:30      2009-11-02T03:30
month America/St_Johns      2009-11-01T02:31      2009-11-01T02:30      2009-12-01T03:30
hour  America/St_Johns      2009-11-01T03:30      2009-11-01T03:30      2009-11-01T04:30
day   America/St_Johns      2009-11-01T03:30      2009-11-01T02:30      2009-11-02T03:30
month America/St_Johns      2009-11-01T03:30      2009-11-01T02:30      2009-12-01T03:30
# summer time of half an hour: the hour at the change is cut short
hour  Australia/Lord_Howe   2026-04-04T14:59:59   2026-04-04T14:00      2026-04-04T15:00
day   Australia/Lord_Howe   2026-04-04T14:59:59   2026-04-04T13:00      2026-04-05T13:30
hour  Australia/Lord_Howe   2026-04-04T15:00      2026-04-04T15:00      2026-04-04T15:30
day   Australia/Lord_Howe   2026-04-04T15:00      2026-04-04T13:00      2026-04-05T13:30
hour  Australia/Lord_Howe   2026-10-03T15:29:59   2026-10-03T14:30      2026-10-03T15:30
day   Australia/Lord_Howe   2026-10-03T15:29:59   2026-10-03T13:30      2026-10-04T13:00
hour  Australia/Lord_Howe   2026-10-03T15:30      2026-10-03T15:30      2026-10-03T16:00
day   Australia/Lord_Howe   2026-10-03T15:30      2026-10-03T13:30      2026-10-04T13:00
# over the date line: 30 December 2011 never was
hour  Pacific/Apia          2011-12-30T09:59:59   2011-12-30T09:00      2011-12-30T10:00
day   Pacific/Apia          2011-12-30T09:59:59   2011-12-29T10:00      2011-12-30T10:00
week  Pacific/Apia          2011-12-30T09:59:59   2011-12-26T10:00      2012-01-01T10:00
month Pacific/Apia          2011-12-30T09:59:59   2011-12-01T10:00      2011-12-31T10:00
year  Pacific/Apia          2011-12-30T09:59:59   2011-01-01T10:00      2011-12-31T10:00
hour  Pacific/Apia          2011-12-30T10:00      2011-12-30T10:00      2011-12-30T11:00
day   Pacific/Apia          2011-12-30T10:00      2011-12-30T10:00      2011-12-31T10:00
week  Pacific/Apia          2011-12-30T10:00      2011-12-26T10:00      2012-01-01T10:00
month Pacific/Apia          2011-12-30T10:00      2011-12-01T10:00      2011-12-31T10:00
year  Pacific/Apia          2011-12-30T10:00      2011-01-01T10:00      2011-12-31T10:00
# a zone that changed for good, by half an hour
hour  Asia/Pyongyang        2015-08-14T14:59:59   2015-08-14T14:00      2015-08-14T15:00
day   Asia/Pyongyang        2015-08-14T14:59:59   2015-08-13T15:00      2015-08-14T15:30
hour  Asia/Pyongyang        2015-08-14T15:00      2015-08-14T15:00      2015-08-14T15:30
day   Asia/Pyongyang        2015-08-14T15:00      2015-08-13T15:00      2015-08-14T15:30
"""

# kind  anchor                instant               first instant         first instant after
BILLING = """
# the 29th
month 2024-01-29T10:00      2024-02-29T09:59:59   2024-01-29T10:00      2024-02-29T10:00
month 2024-01-29T10:00      2024-02-29T10:00      2024-02-29T10:00      2024-03-29T10:00
month 2024-01-29T10:00      2025-02-28T10:00      2025-02-28T10:00      2025-03-29T10:00
month 2024-01-29T10:00      2025-03-29T10:00      2025-03-29T10:00      2025-04-29T10:00
# the 30th
month 2026-01-30T23:30      2026-02-28T23:29:59   2026-01-30T23:30      2026-02-28T23:30
month 2026-01-30T23:30      2026-02-28T23:30      2026-02-28T23:30      2026-03-30T23:30
month 2026-01-30T23:30      2026-03-30T23:30      2026-03-30T23:30      2026-04-30T23:30
month 2026-01-30T23:30      2028-02-29T23:30      2028-02-29T23:30      2028-03-30T23:30
# the 31st
month 2026-01-31            2026-02-28            2026-02-28            2026-03-31
month 2026-01-31            2026-03-31            2026-03-31            2026-04-30
month 2026-01-31            2026-04-30            2026-04-30            2026-05-31
month 2026-01-31            2026-12-31            2026-12-31            2027-01-31
# the 31st, before the anchor
month 2026-05-31T12:00      2026-02-28T12:00      2026-02-28T12:00      2026-03-31T12:00
month 2026-05-31T12:00      2026-02-28T11:59:59   2026-01-31T12:00      2026-02-28T12:00
# 29 February, by the year; 2100 has none
year  2024-02-29T08:00      2025-02-28T07:59:59   2024-02-29T08:00      2025-02-28T08:00
year  2024-02-29T08:00      2025-02-28T08:00      2025-02-28T08:00      2026-02-28T08:00
year  2024-02-29T08:00      2027-06-01            2027-02-28T08:00      2028-02-29T08:00
year  2024-02-29T08:00      2028-02-29T07:59:59   2027-02-28T08:00      2028-02-29T08:00
year  2024-02-29T08:00      2028-02-29T08:00      2028-02-29T08:00      2029-02-28T08:00
year  2024-02-29T08:00      2100-02-28T08:00      2100-02-28T08:00      2101-02-28T08:00
# 28 February stays the 28th
year  2025-02-28            2028-02-28            2028-02-28            2029-02-28
month 2025-02-28            2028-02-28            2028-02-28            2028-03-28
year  2025-02-28            2028-02-29            2028-02-28            2029-02-28
month 2025-02-28            2028-02-29            2028-02-28            2028-03-28
# hours, days and weeks over a month's end
hour  2026-02-26T17:45:30   2026-03-01T00:00      2026-02-28T23:45:30   2026-03-01T00:45:30
day   2026-02-26T17:45:30   2026-03-01T00:00      2026-02-28T17:45:30   2026-03-01T17:45:30
week  2026-02-26T17:45:30   2026-03-01T00:00      2026-02-26T17:45:30   2026-03-05T17:45:30
hour  2026-02-26T17:45:30   2026-03-05T17:45:29   2026-03-05T16:45:30   2026-03-05T17:45:30
day   2026-02-26T17:45:30   2026-03-05T17:45:29   2026-03-04T17:45:30   2026-03-05T17:45:30
week  2026-02-26T17:45:30   2026-03-05T17:45:29   2026-02-26T17:45:30   2026-03-05T17:45:30
hour  2026-02-26T17:45:30   2026-03-05T17:45:30   2026-03-05T17:45:30   2026-03-05T18:45:30
day   2026-02-26T17:45:30   2026-03-05T17:45:30   2026-03-05T17:45:30   2026-03-06T17:45:30
week  2026-02-26T17:45:30   2026-03-05T17:45:30   2026-03-05T17:45:30   2026-03-12T17:45:30
# while others change their clocks nothing moves
hour  2026-03-01T07:30      2026-03-08T07:29:59   2026-03-08T06:30      2026-03-08T07:30
day   2026-03-01T07:30      2026-03-08T07:29:59   2026-03-07T07:30      2026-03-08T07:30
week  2026-03-01T07:30      2026-03-08T07:29:59   2026-03-01T07:30      2026-03-08T07:30
month 2026-03-01T07:30      2026-03-08T07:29:59   2026-03-01T07:30      2026-04-01T07:30
hour  2026-03-01T07:30      2026-03-08T07:30      2026-03-08T07:30      2026-03-08T08:30
day   2026-03-01T07:30      2026-03-08T07:30      2026-03-08T07:30      2026-03-09T07:30
week  2026-03-01T07:30      2026-03-08T07:30      2026-03-08T07:30      2026-03-15T07:30
month 2026-03-01T07:30      2026-03-08T07:30      2026-03-01T07:30      2026-04-01T07:30
# before the anchor
hour  2026-05-20T08:30      2026-03-25            2026-03-24T23:30      2026-03-25T00:30
day   2026-05-20T08:30      2026-03-25            2026-03-24T08:30      2026-03-25T08:30
week  2026-05-20T08:30      2026-03-25            2026-03-18T08:30      2026-03-25T08:30
month 2026-05-20T08:30      2026-03-25            2026-03-20T08:30      2026-04-20T08:30
year  2026-05-20T08:30      2026-03-25            2025-05-20T08:30      2026-05-20T08:30
"""


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def rows_of(table: str) -> list[tuple[str, ...]]:
    return [tuple(line.split()) for line in table.strip().splitlines() if not line.startswith("#")]


@pytest.mark.parametrize(("kind", "zone", "at", "start", "end"), rows_of(CALENDAR))
def test_calendar_periods_are_as_worked_out(kind: str, zone: str, at: str, start: str, end: str) -> None:
    period = period_at(
        KINDS[kind],
        PeriodAnchor.ACCOUNT_TIMEZONE,
        utc(at),
        billing_anchor=utc("2020-02-29T13:14:15"),
        time_zone=ZoneInfo(zone),
    )

    assert period == Period(KINDS[kind], utc(start), utc(end))


@pytest.mark.parametrize(("kind", "anchor", "at", "start", "end"), rows_of(BILLING))
def test_billing_periods_are_as_worked_out_whatever_the_accounts_zone(
    kind: str, anchor: str, at: str, start: str, end: str
) -> None:
    for zone in ("UTC", "America/New_York", "Pacific/Kiritimati"):
        period = period_at(
            KINDS[kind], PeriodAnchor.BILLING, utc(at), billing_anchor=utc(anchor), time_zone=ZoneInfo(zone)
        )

        assert period == Period(KINDS[kind], utc(start), utc(end))


@pytest.mark.parametrize(("kind", "zone", "at", "start", "end"), [row for row in rows_of(CALENDAR) if row[1] == "UTC"])
def test_the_calendar_of_utc_is_the_same_in_every_zone(kind: str, zone: str, at: str, start: str, end: str) -> None:
    for other in (zone, "Asia/Kathmandu", "America/St_Johns"):
        period = period_at(
            KINDS[kind], PeriodAnchor.UTC, utc(at), billing_anchor=utc("2020-01-31"), time_zone=ZoneInfo(other)
        )

        assert period == Period(KINDS[kind], utc(start), utc(end))


def test_the_tables_speak_of_every_kind_that_has_edges() -> None:
    resetting = {kind.name.lower() for kind in PeriodKind} - {"lifetime"}

    assert {row[0] for row in rows_of(CALENDAR)} == resetting
    assert {row[0] for row in rows_of(BILLING)} == resetting


@pytest.mark.parametrize("anchor", list(PeriodAnchor))
@pytest.mark.parametrize("at", ["1970-01-01", "2024-02-29T23:59:59", "2100-03-01"])
def test_a_lifetime_has_no_edges_under_any_anchor(anchor: PeriodAnchor, at: str) -> None:
    period = period_at(
        PeriodKind.LIFETIME, anchor, utc(at), billing_anchor=utc("2026-01-31"), time_zone=ZoneInfo("Asia/Beirut")
    )

    assert period is LIFETIME


@pytest.mark.parametrize("day", [28, 29, 30, 31])
@pytest.mark.parametrize("year", [2023, 2024, 2100])
def test_four_years_of_billing_months_meet_edge_to_edge_on_the_anchors_day(day: int, year: int) -> None:
    anchor = datetime(year, 1, day, 10, 30, tzinfo=UTC)
    period = period_at(PeriodKind.MONTH, PeriodAnchor.BILLING, anchor, billing_anchor=anchor, time_zone=UTC)

    for _ in range(48):
        assert period.start.day == day or (period.start + timedelta(days=1)).day == 1
        assert period.end is not None
        following = period_at(PeriodKind.MONTH, PeriodAnchor.BILLING, period.end, billing_anchor=anchor, time_zone=UTC)
        assert following.start == period.end
        assert period_at(
            PeriodKind.MONTH, PeriodAnchor.BILLING, period.end - MOMENT, billing_anchor=anchor, time_zone=UTC
        ) == period  # fmt: skip
        period = following


# Zones whose clocks changed in ways that others do not, and an instant of such a change.
CHANGES = [
    ("America/St_Johns", "2009-11-01T02:31"),
    ("America/Goose_Bay", "1987-10-25T03:01"),
    ("America/Moncton", "1993-10-31T03:01"),
    ("Antarctica/Casey", "2010-03-04T15:00"),
    ("Australia/Lord_Howe", "1981-02-28T14:00"),
    ("Australia/Lord_Howe", "2025-04-05T15:00"),
    ("America/Caracas", "2007-12-09T07:00"),
    ("America/Caracas", "2016-05-01T07:00"),
    ("Asia/Kathmandu", "1985-12-31T18:30"),
    ("Asia/Pyongyang", "2018-05-04T15:00"),
    ("Pacific/Norfolk", "2015-10-03T14:30"),
    ("Africa/Monrovia", "1972-01-07T00:44:30"),
    ("Pacific/Apia", "2011-12-30T10:00"),
    ("Pacific/Kiritimati", "1994-12-31T10:00"),
    ("Pacific/Kwajalein", "1993-08-21T12:00"),
    ("America/Sao_Paulo", "2018-11-04T03:00"),
    ("America/Sao_Paulo", "2018-02-18T02:00"),
    ("America/Havana", "2025-11-02T05:00"),
    ("Africa/Cairo", "2025-04-24T22:00"),
    ("Africa/Cairo", "2025-10-30T21:00"),
    ("Asia/Beirut", "2025-03-29T22:00"),
    ("Asia/Beirut", "2025-10-25T21:00"),
    ("Atlantic/Azores", "2025-03-30T01:00"),
    ("Atlantic/Azores", "2025-10-26T01:00"),
]


@pytest.mark.parametrize("kind", [kind for kind in PeriodKind if kind is not PeriodKind.LIFETIME])
@pytest.mark.parametrize(("zone", "change"), CHANGES)
def test_around_a_change_of_clocks_every_instant_lies_in_exactly_one_period(
    zone: str, change: str, kind: PeriodKind
) -> None:
    def containing(at: datetime) -> Period:
        return period_at(
            kind, PeriodAnchor.ACCOUNT_TIMEZONE, at, billing_anchor=utc("2020-01-01"), time_zone=ZoneInfo(zone)
        )

    for seconds in (-86_400, -7_200, -3_600, -1_801, -1, 0, 1, 59, 900, 1_800, 3_599, 3_600, 7_200, 86_400):
        at = utc(change) + timedelta(seconds=seconds)
        period = containing(at)
        assert period.end is not None
        assert period.start <= at < period.end
        assert containing(period.start) == period
        assert containing(period.end - MOMENT) == period
        assert containing(period.end).start == period.end
