// Contract table and expiry rules of the futures that the bridge trades. Pure; the platform's own figures must agree.
// Last trading days ignore exchange holidays; the roll rules are earlier than the exchange's, so that a holiday does no harm.
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

        public FKSContract(string root, decimal tick, decimal pointValue, string months, string rule)
        {
            Root = root;
            Tick = tick;
            PointValue = pointValue;
            Months = months;
            Rule = rule;
        }
    }

    public static class FKSContracts
    {
        private const string MonthCodes = "FGHJKMNQUVXZ";

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

        /// <summary>The first day on which no new entry is accepted: the roll day of this project, earlier than the last trading day.</summary>
        public static DateTime NoEntriesFrom(FKSContract contract, int year, int month)
        {
            DateTime first = new DateTime(year, month, 1);
            switch (contract.Rule)
            {
                case "index":
                    return Weekday(first, DayOfWeek.Friday, 3).AddDays(-4);
                case "oil":
                    return BusinessDays(OilEnd(first), -3);
                case "micro_oil":
                    return BusinessDays(OilEnd(first), -4);
                case "currency":
                    return BusinessDays(Weekday(first, DayOfWeek.Wednesday, 3), -4);
                default:
                    return BusinessDays(first, -1); // out before the first notice, the last business day of the month before
            }
        }

        private static DateTime OilEnd(DateTime contractMonth)
        {
            DateTime day = contractMonth.AddMonths(-1).AddDays(24);
            while (!IsBusiness(day))
            {
                day = day.AddDays(-1);
            }
            return BusinessDays(day, -3);
        }

        /// <summary>The contract of this root that takes entries on `day`, as text like "ES 03-25".</summary>
        public static string Front(FKSContract contract, DateTime day)
        {
            for (int ahead = 0; ahead < 25; ahead++)
            {
                DateTime month = new DateTime(day.Year, day.Month, 1).AddMonths(ahead);
                if (contract.Months.IndexOf(MonthCodes[month.Month - 1]) >= 0 && day.Date < NoEntriesFrom(contract, month.Year, month.Month))
                {
                    return FKSProtocol.Contract(contract.Root, month);
                }
            }
            return contract.Root;
        }

        private static DateTime Weekday(DateTime first, DayOfWeek day, int number)
        {
            int ahead = ((int)day - (int)first.DayOfWeek + 7) % 7;
            return first.AddDays(ahead + 7 * (number - 1));
        }

        private static bool IsBusiness(DateTime day)
        {
            return day.DayOfWeek != DayOfWeek.Saturday && day.DayOfWeek != DayOfWeek.Sunday;
        }

        private static DateTime BusinessDays(DateTime day, int count)
        {
            for (int left = Math.Abs(count); left > 0;)
            {
                day = day.AddDays(Math.Sign(count));
                left -= IsBusiness(day) ? 1 : 0;
            }
            return day;
        }
    }
}
