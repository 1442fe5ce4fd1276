// Contract table and expiry rules of the futures that the bridge trades. Pure; the platform's own figures must agree.
// Days are the exchange's business days (FKSCalendar); tests of both sides read nt8/tests/calendar.txt, so that the roll days cannot differ.
using System;
using System.Collections.Generic;

namespace NinjaTrader.NinjaScript.AddOns
{
    public sealed class FKSContract
    {
        public readonly string Root;
        public readonly decimal Tick;
        public readonly decimal PointValue;
        public readonly string Months;
        public readonly string Rule;

        /// <summary>True for a part of a full-size contract, such as MES of ES.</summary>
        public readonly bool IsMicro;

        public FKSContract(string root, decimal tick, decimal pointValue, string months, string rule)
        {
            Root = root;
            Tick = tick;
            PointValue = pointValue;
            Months = months;
            Rule = rule;
            IsMicro = root.Length == 3 && root[0] == 'M';
        }

        /// <summary>True where the exchange lists this month (1 to 12).</summary>
        public bool IsListed(int month)
        {
            return Months.IndexOf(FKSContracts.MonthCodes[month - 1]) >= 0;
        }
    }

    public static class FKSContracts
    {
        public const string MonthCodes = "FGHJKMNQUVXZ";

        private const int NoticeLead = -2; // business days before the first notice
        private const int ExpiryLead = -3; // business days before the last trading day

        private static readonly Dictionary<string, FKSContract> Table = MakeTable();

        private static Dictionary<string, FKSContract> MakeTable()
        {
            Dictionary<string, FKSContract> made = new Dictionary<string, FKSContract>(StringComparer.Ordinal);
            foreach (FKSContract found in new[]
            {
                new FKSContract("ES", 0.25m, 50m, "HMUZ", "index"), new FKSContract("MES", 0.25m, 5m, "HMUZ", "index"),
                new FKSContract("NQ", 0.25m, 20m, "HMUZ", "index"), new FKSContract("MNQ", 0.25m, 2m, "HMUZ", "index"),
                new FKSContract("RTY", 0.1m, 50m, "HMUZ", "index"), new FKSContract("M2K", 0.1m, 5m, "HMUZ", "index"),
                new FKSContract("YM", 1m, 5m, "HMUZ", "index"), new FKSContract("MYM", 1m, 0.5m, "HMUZ", "index"),
                new FKSContract("CL", 0.01m, 1000m, MonthCodes, "oil"), new FKSContract("MCL", 0.01m, 100m, MonthCodes, "micro_oil"),
                new FKSContract("GC", 0.1m, 100m, "GJMQVZ", "delivery"), new FKSContract("MGC", 0.1m, 10m, "GJMQVZ", "delivery"),
                new FKSContract("SI", 0.005m, 5000m, "HKNUZ", "delivery"), new FKSContract("ZB", 0.03125m, 1000m, "HMUZ", "delivery"),
                new FKSContract("ZN", 0.015625m, 1000m, "HMUZ", "delivery"), new FKSContract("6E", 0.00005m, 125000m, "HMUZ", "currency")
            })
            {
                made[found.Root] = found;
            }
            return made;
        }

        /// <summary>The contract of a root like ES; null where the table has none.</summary>
        public static FKSContract Find(string root)
        {
            FKSContract found;
            return root != null && Table.TryGetValue(root, out found) ? found : null;
        }

        /// <summary>The first trade date on which no new entry is accepted: the roll day of this project, earlier than the last trading day
        /// and than the first delivery notice.</summary>
        public static DateTime NoEntriesFrom(FKSContract contract, int year, int month)
        {
            DateTime first = new DateTime(year, month, 1);
            DateTime last;
            switch (contract.Rule)
            {
                case "index":
                    last = FKSCalendar.BusinessDay(FKSCalendar.NthWeekday(first, DayOfWeek.Friday, 3), 0);
                    return FKSCalendar.BusinessDay(last.AddDays(-(((int)last.DayOfWeek + 6) % 7)), 0); // Monday of that week
                case "oil":
                case "micro_oil":
                    last = FKSCalendar.BusinessDay(first.AddMonths(-1).AddDays(24), -3); // before the 25th of the month before
                    return FKSCalendar.BusinessDay(FKSCalendar.BusinessDay(last, contract.Rule == "oil" ? 0 : -1), ExpiryLead);
                case "currency":
                    last = FKSCalendar.BusinessDay(FKSCalendar.NthWeekday(first, DayOfWeek.Wednesday, 3).AddDays(-1), -1);
                    return FKSCalendar.BusinessDay(last, ExpiryLead);
                default:
                    return FKSCalendar.BusinessDay(FKSCalendar.LastBusinessDayBefore(first), NoticeLead);
            }
        }

        /// <summary>The contract of this root that takes entries on a trade date, as text like "ES 03-25".</summary>
        public static string Front(FKSContract contract, DateTime day)
        {
            for (int ahead = 0; ahead < 25; ahead++)
            {
                DateTime month = new DateTime(day.Year, day.Month, 1).AddMonths(ahead);
                bool isThin = month.Month == 10 && contract.Rule == "delivery" && contract.Months.IndexOf('V') >= 0; // October gold
                if (!isThin && contract.IsListed(month.Month) && day.Date < NoEntriesFrom(contract, month.Year, month.Month))
                {
                    return FKSProtocol.Contract(contract.Root, month);
                }
            }
            return contract.Root;
        }
    }
}
