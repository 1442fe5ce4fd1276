using System;
using System.IO;
using NinjaTrader.NinjaScript.AddOns;

namespace FKS.Tests
{
    public static class ConfigTests
    {
        private static string Fault(string text)
        {
            return Check.Throws<FKSConfigException>(delegate { FKSConfig.Parse(text, "config.json"); }).Message;
        }

        public static void DefaultsAllowOnlyTheSimulationAccount()
        {
            FKSConfig found = FKSConfig.Parse("{}", "config.json");
            Check.Equal("auto", found.Accounts["Sim101"]);
            Check.Equal(1, found.Accounts.Count);
            Check.Equal("127.0.0.1", found.Bind);
            Check.Equal(8080, found.Port);
            Check.Equal(47740, found.PortFallback);
        }

        public static void UnknownKeysAndBadValuesAreNamed()
        {
            Check.True(Fault("{\"acounts\":[]}").Contains("acounts"), "the key is not named");
            Check.True(Fault("{\"port\":0}").Contains("port"), "the key is not named");
            Check.True(Fault("{\"hb_ms\":1999}").Contains("2000"), "the limit is not named");
            Check.True(Fault("{\"accounts\":[{\"name\":\"a\",\"mode\":\"on\"}]}").Contains("auto, relay, off"), "the choices are not named");
            Check.True(Fault("{\"seed\":{\"x\":1}}").Contains("seed.x"), "the key is not named");
            Check.True(Fault("{\"bind\":\"0.0.0.0\"}").Contains("allow_remote"), "the remedy is not named");
            Check.True(Fault("{").Contains("config.json"), "the file is not named");
        }

        public static void SecretIsRequiredAndLongEnough()
        {
            string folder = Folder.New();
            Check.True(Check.Throws<FKSConfigException>(delegate { FKSConfig.Load(folder); }).Message.Contains("secret.key"), "the file is not named");
            File.WriteAllText(Path.Combine(folder, "secret.key"), " short \n");
            string message = Check.Throws<FKSConfigException>(delegate { FKSConfig.Load(folder); }).Message;
            Check.True(message.Contains("16") && !message.Contains("short"), "the message must name the length and not the secret");
            File.WriteAllText(Path.Combine(folder, "secret.key"), " 0123456789abcdef0123456789 abcdef\r\n");
            Check.Equal(32, FKSConfig.Load(folder).Secret.Length);
            File.WriteAllText(Path.Combine(folder, "config.json"), "{\"bind\":\"10.0.0.5\",\"allow_remote\":true}");
            Check.Equal("10.0.0.5", FKSConfig.Load(folder).Bind);
            File.WriteAllText(Path.Combine(folder, "secret.key"), "0123456789abcdef");
            Check.Throws<FKSConfigException>(delegate { FKSConfig.Load(folder); });
        }
    }

    public static class RiskTests
    {
        private const long Monday = 1738594800000; // 2025-02-03 15:00 UTC, 09:00 US Central

        private static string Rules(string verified)
        {
            return "{\"group\":\"g\",\"rules\":{\"max_loss\":{\"value\":\"none\",\"source\":\"s\",\"verified_on\":\"" + verified + "\",\"verified_by\":\"o\"},"
                + "\"daily_loss\":{\"value\":1000,\"action\":\"flatten_and_block\",\"source\":\"s\",\"verified_on\":\"" + verified + "\",\"verified_by\":\"o\"},"
                + "\"max_lots\":{\"value\":5,\"micro_factor\":1,\"source\":\"s\",\"verified_on\":\"" + verified + "\",\"verified_by\":\"o\"},"
                + "\"flat_by\":{\"value\":\"15:10\",\"own\":\"15:05\",\"no_entries_from\":\"14:55\",\"tz\":\"America/Chicago\",\"source\":\"s\",\"verified_on\":\"" + verified + "\",\"verified_by\":\"o\"},"
                + "\"automation\":{\"value\":\"allowed_monitored\",\"source\":\"s\",\"verified_on\":\"" + verified + "\",\"verified_by\":\"o\"}}}";
        }

        private static FKSRisk Made(string verified)
        {
            FKSConfig config = FKSConfig.Parse("{\"accounts\":[{\"name\":\"L\",\"mode\":\"auto\"},{\"name\":\"Sim101\",\"mode\":\"auto\"}]}", "c");
            return new FKSRisk(config, verified == null ? null : FKSRules.Parse(Rules(verified), "r"));
        }

        private static string Entry(FKSRisk risk, int qty, int exposure, decimal worst, decimal? realized, long now)
        {
            FKSRefusal found = risk.CheckEntry("L", qty, exposure, exposure + qty, worst, new FKSAccountValues { Realized = realized, Unrealized = 0 }, false, now);
            return found == null ? null : found.Code;
        }

        public static void LiveAccountsNeedRulesVerifiedWithinThirtyDays()
        {
            Check.Equal("off", Made(null).Mode("L", false, Monday));
            Check.Equal("auto", Made(null).Mode("Sim101", true, Monday));
            Check.Equal("auto", Made("2025-01-20").Mode("L", false, Monday));
            Check.Equal("relay", Made("2024-12-01").Mode("L", false, Monday));
            Check.Equal("off", Made("2025-01-20").Mode("X", true, Monday));
        }

        public static void LossLimitsCountTheWorstCase()
        {
            FKSRisk risk = Made("2025-01-20");
            Check.Equal(null, Entry(risk, 1, 0, 500, -200, Monday));
            Check.Equal("daily_loss", Entry(risk, 1, 0, 600, -200, Monday));
            Check.Equal("daily_loss", Entry(risk, 1, 0, 0, null, Monday));
            Check.Equal("position_limit", Entry(risk, 3, 3, 0, 0, Monday));
        }

        public static void HoursAreUsCentral()
        {
            FKSRisk risk = Made("2025-01-20");
            long hour = 3600000;
            Check.Equal("outside_session", Entry(risk, 1, 0, 0, 0, Monday + 6 * hour)); // 15:00
            Check.Equal(null, Entry(risk, 1, 0, 0, 0, Monday + 8 * hour + 60000)); // 17:01, the next trade date
            Check.Equal("2025-02-03", FKSRisk.TradeDate(Monday));
            Check.Equal("2025-02-04", FKSRisk.TradeDate(Monday + 8 * hour));
            FKSAccountValues none = new FKSAccountValues();
            Check.Equal(null, risk.Breach("L", none, false, Monday + 6 * hour + 360000));
            Check.Equal("outside_session", risk.Breach("L", none, true, Monday + 6 * hour + 360000).Code);
            Check.Equal(null, risk.Breach("L", none, true, Monday + 6 * hour + 361000));
        }

        public static void BreachBlocksUntilTheNextTradeDate()
        {
            FKSRisk risk = Made("2025-01-20");
            FKSAccountValues lost = new FKSAccountValues { Realized = -500, Unrealized = -300 };
            Check.Equal("daily_loss", risk.Breach("L", lost, true, Monday).Code);
            risk.Block("L", Monday);
            Check.Equal(null, risk.Breach("L", lost, true, Monday));
            Check.Equal("daily_loss", Entry(risk, 1, 0, 0, 0, Monday));
            Check.Equal(null, Entry(risk, 1, 0, 0, 0, Monday + 9L * 3600000));
        }

        public static void MissingRuleIsNotKnownAndNoneIsNoRule()
        {
            FKSConfig config = FKSConfig.Parse("{\"accounts\":[{\"name\":\"L\",\"mode\":\"auto\"},{\"name\":\"Sim101\",\"mode\":\"auto\"}]}", "c");
            string rule = ",\"source\":\"s\",\"verified_on\":\"2025-01-20\",\"verified_by\":\"o\"}";
            string text = "{\"rules\":{";
            foreach (string key in FKSRules.Required)
            {
                Check.Equal("off", new FKSRisk(config, FKSRules.Parse(text.TrimEnd(',') + "}}", "r")).Mode("L", false, Monday));
                text += "\"" + key + "\":{\"value\":\"" + (key == "automation" ? "allowed" : "none") + "\"" + rule + ",";
            }
            FKSRisk complete = new FKSRisk(config, FKSRules.Parse(text.TrimEnd(',') + "}}", "r"));
            Check.Equal("auto", complete.Mode("L", false, Monday));
            Check.Equal(null, Entry(complete, 1, 0, 1000000, null, Monday));
            Check.Equal("off", new FKSRisk(config, FKSRules.Parse(text.TrimEnd(',').Replace("2025-01-20", "2025-02-04") + "}}", "r")).Mode("L", false, Monday));
            Check.Equal("auto", new FKSRisk(config, FKSRules.Parse(text.TrimEnd(',').Replace("2025-01-20", "2025-01-04") + "}}", "r")).Mode("L", false, Monday)); // 30 days
        }

        public static void WrongRulesAreRefusedWithTheKey()
        {
            foreach (string wrong in new[] { "\"trailing\":\"daily\"", "\"trailing\":\"static\"", "\"trailing\":\"eod\",\"lock\":100", "\"trailing\":\"eod\",\"unit\":\"percent\"" })
            {
                string text = "{\"rules\":{\"max_loss\":{\"value\":2000," + wrong + ",\"source\":\"s\",\"verified_on\":\"2025-01-20\",\"verified_by\":\"o\"}}}";
                Check.True(Check.Throws<FKSConfigException>(delegate { FKSRules.Parse(text, "r"); }).Message.Contains("max_loss."), "the key is not named");
            }
            string hours = Rules("2025-01-20").Replace("14:55", "15:06");
            Check.True(Check.Throws<FKSConfigException>(delegate { FKSRules.Parse(hours, "r"); }).Message.Contains("in this order"), "the order is not named");
        }

        public static void NothingIsEnteredWhileTheMarketIsClosed()
        {
            FKSRisk risk = Made("2025-01-20");
            long day = 86400000;
            Check.Equal("outside_session", Entry(risk, 1, 0, 0, 0, Monday + 4 * day + 8 * 3600000)); // Friday 17:00
            Check.Equal("outside_session", Entry(risk, 1, 0, 0, 0, Monday + 5 * day)); // Saturday
            Check.Equal("outside_session", Entry(risk, 1, 0, 0, 0, Monday + 6 * day + 7 * 3600000)); // Sunday 16:00
            Check.Equal(null, Entry(risk, 1, 0, 0, 0, Monday + 6 * day + 8 * 3600000)); // Sunday 17:00
            Check.Equal("outside_session", risk.Breach("L", new FKSAccountValues(), true, Monday + 5 * day).Code);
            Check.Equal(null, risk.Breach("L", new FKSAccountValues(), true, Monday + 5 * day + 3600000));
        }

        public static void EarlyCloseEndsEntriesAndClosesBeforeIt()
        {
            FKSRisk risk = Made("2025-02-10");
            long holiday = Monday + 14L * 86400000; // 2025-02-17, Presidents' Day: the session ends at 12:00
            long minute = 60000;
            Check.Equal(null, Entry(risk, 1, 0, 0, 0, holiday + 154 * minute)); // 11:34
            Check.Equal("outside_session", Entry(risk, 1, 0, 0, 0, holiday + 155 * minute)); // 11:35
            Check.Equal(null, risk.Breach("L", new FKSAccountValues(), true, holiday + 164 * minute));
            Check.Equal("outside_session", risk.Breach("L", new FKSAccountValues(), true, holiday + 165 * minute).Code); // 11:45
        }

        public static void PositionOpenedAfterTheFlatTimeIsClosedToo()
        {
            FKSRisk risk = Made("2025-01-20");
            FKSAccountValues none = new FKSAccountValues();
            long flat = Monday + 6 * 3600000 + 300000; // 15:05
            Check.Equal("outside_session", risk.Breach("L", none, true, flat).Code);
            risk.Block("L", flat);
            Check.Equal(null, risk.Breach("L", none, false, flat + 120000));
            Check.Equal("outside_session", risk.Breach("L", none, true, flat + 180000).Code);
            Check.Equal("outside_session", Entry(risk, 1, 0, 0, 0, flat + 180000));
            Check.Equal(null, Entry(risk, 1, 0, 0, 0, flat + 7200000)); // 17:05, the next trade date
        }

        public static void LotsAreCountedByProduct()
        {
            FKSConfig config = FKSConfig.Parse("{\"max_position\":100}", "c");
            FKSRisk risk = new FKSRisk(config, FKSRules.Parse(Rules("2025-01-20").Replace("\"micro_factor\":1", "\"micro_factor\":0.1"), "r"));
            Check.Equal(5.1m, risk.Lots("ES", 5) + risk.Lots("MES", 1));
            FKSAccountValues known = new FKSAccountValues { Realized = 0, Unrealized = 0 };
            Check.Equal("position_limit", risk.CheckEntry("L", 1, 5, risk.Lots("ES", 5) + risk.Lots("MES", 1), 0, known, false, Monday).Code);
            Check.Equal(null, risk.CheckEntry("L", 10, 4, risk.Lots("ES", 4) + risk.Lots("MES", 10), 0, known, false, Monday));
        }

        public static void ThresholdFollowsTheRulesOfTheFirm()
        {
            string rules = "{\"starting_balance\":50000,\"rules\":{\"max_loss\":{\"value\":2000,\"trailing\":\"KIND\",LOCK\"source\":\"s\",\"verified_on\":\"2025-01-20\",\"verified_by\":\"o\"}}}";
            FKSConfig config = FKSConfig.Parse("{}", "c");
            FKSRisk still = new FKSRisk(config, FKSRules.Parse(rules.Replace("KIND", "static").Replace("LOCK", ""), "r"));
            FKSRisk locked = new FKSRisk(config, FKSRules.Parse(rules.Replace("KIND", "eod").Replace("LOCK", "\"lock\":100,"), "r"));
            FKSRisk eod = new FKSRisk(config, FKSRules.Parse(rules.Replace("KIND", "eod").Replace("LOCK", ""), "r"));
            foreach (FKSRisk risk in new[] { still, locked, eod })
            {
                risk.RestoreHighest("L", 55000, "2025-02-03");
            }
            FKSAccountValues now = new FKSAccountValues { NetLiquidation = 50600 };
            Check.Equal(null, still.Breach("L", now, true, Monday)); // 2600 above 48000
            Check.Equal(null, locked.Breach("L", now, true, Monday)); // 500 above 50100
            Check.Equal("drawdown", eod.Breach("L", now, true, Monday).Code); // below 53000
            FKSRisk begun = new FKSRisk(config, FKSRules.Parse(rules.Replace("KIND", "eod").Replace("LOCK", ""), "r"));
            begun.RestoreHighest("L", 48300, "2025-02-03"); // first seen after a loss: the starting balance counts
            Check.Equal("drawdown", begun.Breach("L", new FKSAccountValues { NetLiquidation = 48300 }, true, Monday).Code);
        }

        private static FKSRisk Trailing(string kind)
        {
            string rules = "{\"rules\":{\"max_loss\":{\"value\":2000,\"trailing\":\"" + kind + "\",\"source\":\"s\",\"verified_on\":\"2025-01-20\",\"verified_by\":\"o\"}}}";
            return new FKSRisk(FKSConfig.Parse("{}", "c"), FKSRules.Parse(rules, "r"));
        }

        public static void TrailingLimitRisesIntradayOrAtTheEndOfTheTradeDate()
        {
            decimal high;
            string day;
            FKSRisk intraday = Trailing("intraday");
            Check.Equal(true, intraday.NoteEquity("L", 50000, Monday, out high, out day));
            Check.Equal(true, intraday.NoteEquity("L", 51000, Monday, out high, out day));
            Check.Equal(51000m, high);
            Check.Equal(false, intraday.NoteEquity("L", 50500, Monday, out high, out day));
            Check.Equal("drawdown", intraday.Breach("L", new FKSAccountValues { NetLiquidation = 49400 }, true, Monday).Code);
            FKSRisk eod = Trailing("eod");
            eod.NoteEquity("L", 50000, Monday, out high, out day);
            Check.Equal(false, eod.NoteEquity("L", 51000, Monday, out high, out day));
            Check.Equal(null, eod.Breach("L", new FKSAccountValues { NetLiquidation = 49400 }, true, Monday));
            Check.Equal(true, eod.NoteEquity("L", 50900, Monday + 9L * 3600000, out high, out day));
            Check.Equal(51000m, high);
            Check.Equal("2025-02-04", day);
        }

        public static void TrailingLimitOutlivesARestart()
        {
            FKSRisk risk = Trailing("eod");
            risk.RestoreHighest("L", 51000, "2025-02-03");
            decimal high;
            string day;
            Check.Equal(false, risk.NoteEquity("L", 49400, Monday, out high, out day));
            Check.Equal("drawdown", risk.Breach("L", new FKSAccountValues { NetLiquidation = 49400 }, true, Monday).Code);
        }

        public static void RateIsLimited()
        {
            FKSRisk risk = Made(null);
            for (int i = 0; i < 5; i++)
            {
                Check.Equal(null, risk.CheckRate(i));
            }
            Check.Equal("rate_limited", risk.CheckRate(10).Code);
            Check.Equal(null, risk.CheckRate(1010));
        }

        public static void FiguresWithoutASourceAreRefused()
        {
            Check.Throws<FKSConfigException>(delegate { FKSRules.Parse("{\"rules\":{\"daily_loss\":{\"value\":1}}}", "r"); });
            Check.Throws<FKSConfigException>(delegate { FKSRules.Parse("{\"rules\":{\"dayly_loss\":{}}}", "r"); });
        }
    }
}
