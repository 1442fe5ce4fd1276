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
            return "{\"group\":\"g\",\"rules\":{\"daily_loss\":{\"value\":1000,\"action\":\"flatten_and_block\",\"source\":\"s\",\"verified_on\":\"" + verified + "\",\"verified_by\":\"o\"},"
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
            FKSRefusal found = risk.CheckEntry("L", "ES", qty, exposure, worst, new FKSAccountValues { Realized = realized, Unrealized = 0 }, false, now);
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
