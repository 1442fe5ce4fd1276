// Business days, trade dates and session ends of CME Group's futures in US Central time. Pure: no clock, no zone.
// The rules are those of FKS's own calendar (fks/model/futures/trading_days.py); tests of both sides read nt8/tests/calendar.txt.
using System;
using System.Collections.Generic;

namespace NinjaTrader.NinjaScript.AddOns
{
    public static class FKSCalendar
    {
        /// <summary>Start of a trade date, on the evening before, and end of a regular session.</summary>
        public static readonly TimeSpan Open = TimeSpan.FromHours(17);
        public static readonly TimeSpan Close = TimeSpan.FromHours(16);

        // the equity products' early close is 12:00 or 12:15, later for others: the earliest one counts for all
        private static readonly TimeSpan EarlyClose = TimeSpan.FromHours(12);
        private const int JuneteenthSince = 2022;

        // a national day of mourning: New York's stock exchange was closed, equity futures ended at 08:30
        private static readonly DateTime Mourning = new DateTime(2025, 1, 9);
        private static readonly TimeSpan MourningClose = new TimeSpan(8, 30, 0);

        /// <summary>True on a day that counts for expiry and delivery: a weekday on which New York's stock exchange opens.</summary>
        public static bool IsBusinessDay(DateTime day)
        {
            return !IsWeekend(day) && day != Mourning && !IsHoliday(day);
        }

        /// <summary>The business day `offset` days from `day`. A day that is none counts as the business day before it.</summary>
        public static DateTime BusinessDay(DateTime day, int offset)
        {
            DateTime found = day.Date;
            while (!IsBusinessDay(found))
            {
                found = found.AddDays(-1);
            }
            for (int left = Math.Abs(offset); left > 0;)
            {
                found = found.AddDays(Math.Sign(offset));
                left -= IsBusinessDay(found) ? 1 : 0;
            }
            return found;
        }

        /// <summary>The last business day of the month before the one that `day` is in.</summary>
        public static DateTime LastBusinessDayBefore(DateTime day)
        {
            return BusinessDay(new DateTime(day.Year, day.Month, 1).AddDays(-1), 0);
        }

        /// <summary>The n-th day of that name in the month that begins on `first`.</summary>
        public static DateTime NthWeekday(DateTime first, DayOfWeek day, int number)
        {
            int ahead = ((int)day - (int)first.DayOfWeek + 7) % 7;
            return first.AddDays(ahead + 7 * (number - 1));
        }

        /// <summary>The time at which the session of a trade date ends; null where the day has none.</summary>
        public static TimeSpan? SessionClose(DateTime day)
        {
            if (IsWeekend(day) || day == GoodFriday(day.Year) || IsObserved(day, 12, 25) || IsNewYear(day))
            {
                return null;
            }
            if (day == Mourning)
            {
                return MourningClose;
            }
            return IsHoliday(day) || IsShort(day) ? EarlyClose : Close;
        }

        /// <summary>The trade date at a local time: it begins at 17:00 of the evening before. While the market is closed, the next one.</summary>
        public static DateTime TradeDay(DateTime local)
        {
            DateTime day = SessionDay(local);
            while (SessionClose(day) == null)
            {
                day = day.AddDays(1);
            }
            return day;
        }

        /// <summary>True while the market trades at a local time.</summary>
        public static bool IsOpen(DateTime local)
        {
            DateTime day = SessionDay(local);
            TimeSpan? close = SessionClose(day);
            return close != null && local < day + close.Value;
        }

        private static DateTime SessionDay(DateTime local)
        {
            return local.TimeOfDay >= Open ? local.Date.AddDays(1) : local.Date;
        }

        private static bool IsWeekend(DateTime day)
        {
            return day.DayOfWeek == DayOfWeek.Saturday || day.DayOfWeek == DayOfWeek.Sunday;
        }

        /// <summary>True on a holiday of New York's stock exchange that is a weekday.</summary>
        private static bool IsHoliday(DateTime day)
        {
            return IsNewYear(day)
                || day == Nth(day.Year, 1, DayOfWeek.Monday, 3)
                || day == Nth(day.Year, 2, DayOfWeek.Monday, 3)
                || day == GoodFriday(day.Year)
                || day == LastMonday(day.Year, 5)
                || (day.Year >= JuneteenthSince && IsObserved(day, 6, 19))
                || IsObserved(day, 7, 4)
                || day == Nth(day.Year, 9, DayOfWeek.Monday, 1)
                || day == Nth(day.Year, 11, DayOfWeek.Thursday, 4)
                || IsObserved(day, 12, 25);
        }

        /// <summary>True on a business day on which New York closes at 13:00.</summary>
        private static bool IsShort(DateTime day)
        {
            bool beforeChristmas = day.Month == 12 && day.Day == 24;
            bool beforeIndependence = day.Month == 7 && day.Day == 3;
            return beforeChristmas || beforeIndependence || day == Nth(day.Year, 11, DayOfWeek.Thursday, 4).AddDays(1);
        }

        /// <summary>A holiday on a Saturday is observed on the Friday before, one on a Sunday on the Monday after.</summary>
        private static bool IsObserved(DateTime day, int month, int number)
        {
            DateTime holiday = new DateTime(day.Year, month, number);
            int moved = holiday.DayOfWeek == DayOfWeek.Saturday ? -1 : holiday.DayOfWeek == DayOfWeek.Sunday ? 1 : 0;
            return day == holiday.AddDays(moved);
        }

        /// <summary>New Year's Day; one on a Saturday is not observed.</summary>
        private static bool IsNewYear(DateTime day)
        {
            DateTime holiday = new DateTime(day.Year, 1, 1);
            return day == (holiday.DayOfWeek == DayOfWeek.Sunday ? holiday.AddDays(1) : holiday);
        }

        private static DateTime Nth(int year, int month, DayOfWeek day, int number)
        {
            return NthWeekday(new DateTime(year, month, 1), day, number);
        }

        private static DateTime LastMonday(int year, int month)
        {
            DateTime last = new DateTime(year, month, DateTime.DaysInMonth(year, month));
            return last.AddDays(-(((int)last.DayOfWeek + 6) % 7));
        }

        /// <summary>Two days before Easter Sunday of the Gregorian calendar. Source: the anonymous algorithm of 1876.</summary>
        private static DateTime GoodFriday(int year)
        {
            int a = year % 19;
            int b = year / 100;
            int c = year % 100;
            int h = (19 * a + b - b / 4 - (b - (b + 8) / 25 + 1) / 3 + 15) % 30;
            int l = (32 + 2 * (b % 4) + 2 * (c / 4) - h - c % 4) % 7;
            int m = (a + 11 * h + 22 * l) / 451;
            int shifted = h + l - 7 * m + 114;
            return new DateTime(year, shifted / 31, shifted % 31 + 1).AddDays(-2);
        }
    }
}
