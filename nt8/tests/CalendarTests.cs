using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using NinjaTrader.NinjaScript.AddOns;

namespace FKS.Tests
{
    /// <summary>The table calendar.txt, which FKS's own tests read too, so that both sides know the same days.</summary>
    public static class CalendarTests
    {
        private static readonly DateTime First = new DateTime(2020, 1, 1);
        private static readonly DateTime Last = new DateTime(2032, 12, 31);

        private static List<string[]> Lines(string kind)
        {
            List<string[]> found = new List<string[]>();
            foreach (string line in File.ReadAllLines(Path.Combine(AppDomain.CurrentDomain.BaseDirectory, "calendar.txt")))
            {
                string[] words = line.Split(new[] { ' ' }, StringSplitOptions.RemoveEmptyEntries);
                if (words.Length > 0 && words[0] == kind)
                {
                    found.Add(words);
                }
            }
            Check.True(found.Count > 20, "calendar.txt has too few lines " + kind);
            return found;
        }

        private static string Day(DateTime day)
        {
            return day.ToString("yyyy-MM-dd", CultureInfo.InvariantCulture);
        }

        private static DateTime Day(string text)
        {
            return DateTime.ParseExact(text, "yyyy-MM-dd", CultureInfo.InvariantCulture);
        }

        private static long Moment(string text)
        {
            return FKSClock.Ms(DateTime.ParseExact(text, "yyyy-MM-dd'T'HH:mm'Z'", CultureInfo.InvariantCulture));
        }

        public static void EachDayIsAsTheTableSays()
        {
            Dictionary<string, string> known = new Dictionary<string, string>();
            foreach (string[] line in Lines("day"))
            {
                known[line[1]] = line[2] + " " + line[3];
            }
            for (DateTime day = First; day <= Last; day = day.AddDays(1))
            {
                TimeSpan? close = FKSCalendar.SessionClose(day);
                string found = (close == null ? "none" : close.Value.ToString("hh\\:mm", CultureInfo.InvariantCulture)) + (FKSCalendar.IsBusinessDay(day) ? " business" : " holiday");
                bool weekend = day.DayOfWeek == DayOfWeek.Saturday || day.DayOfWeek == DayOfWeek.Sunday;
                string expected;
                expected = known.TryGetValue(Day(day), out expected) ? expected : weekend ? "none holiday" : "16:00 business";
                Check.Equal(Day(day) + " " + expected, Day(day) + " " + found);
            }
        }

        public static void EachContractRollsOnTheDayOfTheTable()
        {
            foreach (string[] line in Lines("roll"))
            {
                string root;
                int year;
                int month;
                Check.True(FKSProtocol.ParseContract(line[1] + " " + line[2], out root, out year, out month), line[1] + " is no contract");
                FKSContract contract = FKSContracts.Find(root);
                Check.True(contract.IsListed(month), line[1] + " " + line[2] + " is not listed");
                Check.Equal(line[1] + " " + line[2] + " " + line[3], line[1] + " " + line[2] + " " + Day(FKSContracts.NoEntriesFrom(contract, year, month)));
            }
        }

        public static void EachFrontMonthIsThatOfTheTable()
        {
            foreach (string[] line in Lines("front"))
            {
                Check.Equal(line[2] + " " + line[3] + " " + line[4], line[2] + " " + FKSContracts.Front(FKSContracts.Find(line[1]), Day(line[2])));
            }
        }

        public static void EachMomentIsAsTheTableSays()
        {
            foreach (string[] line in Lines("moment"))
            {
                long ms = Moment(line[1]);
                Check.Equal(line[1] + " " + line[2] + " " + line[3], line[1] + (FKSRisk.IsOpen(ms) ? " open " : " closed ") + FKSRisk.TradeDate(ms));
            }
        }

        public static void EarlyClosesMoveTheHoursOfARule()
        {
            foreach (string[] line in Lines("hours"))
            {
                string rule = "{\"rules\":{\"flat_by\":{\"value\":\"16:00\",\"own\":\"" + line[2] + "\",\"no_entries_from\":\"" + line[3] + "\",\"before_early_close_min\":" + line[4]
                    + ",\"source\":\"s\",\"verified_on\":\"2025-01-20\",\"verified_by\":\"o\"}}}";
                DateTime? entriesEnd;
                DateTime? flatAt;
                FKSRisk.Hours(FKSRules.Parse(rule, "r"), Day(line[1]).AddHours(7), out entriesEnd, out flatAt);
                Check.Equal(line[1] + " " + line[5] + " " + line[6], Day(flatAt.Value) + flatAt.Value.ToString(" HH:mm", CultureInfo.InvariantCulture)
                    + entriesEnd.Value.ToString(" HH:mm", CultureInfo.InvariantCulture));
            }
        }
    }
}
