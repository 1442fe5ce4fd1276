// Account modes, limits, trading hours and loss limits of the group's rule file, and the block of an account for a trade date.
// The file's figures are the only ones used; an old or missing file lowers the account's mode. Exits are never refused.
using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;

namespace NinjaTrader.NinjaScript.AddOns
{
    /// <summary>Account values the gate needs; null is unknown, which is not 0.</summary>
    public sealed class FKSAccountValues
    {
        public decimal? Realized;
        public decimal? Unrealized;
        public decimal? NetLiquidation;
        public decimal OwnRealized;
    }

    /// <summary>Rules of one group of accounts, each figure with its source and the day it was verified.</summary>
    public sealed class FKSRules
    {
        public const int VerifiedDaysMax = 30;

        public decimal? MaxLoss;
        public bool TrailsIntraday;
        public decimal? DailyLoss;
        public bool DailyBlocks;
        public decimal? MaxLots;
        public decimal MicroFactor = 1m;
        public TimeSpan? FlatBy;
        public TimeSpan? NoEntriesFrom;
        public string Automation;
        public DateTime OldestVerified = DateTime.MaxValue;
        public readonly List<KeyValuePair<long, long>> News = new List<KeyValuePair<long, long>>();

        private static readonly HashSet<string> Keys = new HashSet<string> { "max_loss", "daily_loss", "max_lots", "flat_by", "automation", "news" };

        private static readonly HashSet<string> Inner = new HashSet<string>
        {
            "value", "unit", "trailing", "source", "source_date", "verified_on", "verified_by", "action", "micro_factor", "tz", "own", "no_entries_from"
        };

        /// <summary>Read a rule file. Errors: FKSConfigException.</summary>
        public static FKSRules Load(string path)
        {
            try
            {
                return Parse(FKSJson.Decode(File.ReadAllBytes(path), 0, (int)new FileInfo(path).Length), path);
            }
            catch (IOException cause)
            {
                throw new FKSConfigException(path + " cannot be read: " + cause.Message);
            }
        }

        public static FKSRules Parse(string text, string path)
        {
            FKSObject rules;
            try
            {
                rules = FKSJson.ParseObject(text).Object("rules");
            }
            catch (FKSJsonException cause)
            {
                throw new FKSConfigException(path + " is no strict JSON object: " + cause.Message);
            }
            if (rules == null)
            {
                throw new FKSConfigException(path + ": the key rules is missing");
            }
            FKSRules made = new FKSRules();
            foreach (string key in rules.Keys)
            {
                if (!Keys.Contains(key))
                {
                    throw new FKSConfigException(path + ": unknown rule " + key);
                }
                if (key == "news")
                {
                    made.ReadNews(rules.List(key), path);
                    continue;
                }
                FKSObject rule = rules.Object(key);
                if (rule == null || !rule.Has("value") || !rule.Has("source") || !rule.Has("verified_on") || !rule.Has("verified_by"))
                {
                    throw new FKSConfigException(path + ": " + key + " needs value, source, verified_on and verified_by");
                }
                foreach (string inner in rule.Keys)
                {
                    if (!Inner.Contains(inner))
                    {
                        throw new FKSConfigException(path + ": unknown key " + key + "." + inner);
                    }
                }
                made.Read(key, rule, path);
            }
            return made;
        }

        private void Read(string key, FKSObject rule, string path)
        {
            DateTime verified;
            if (!DateTime.TryParseExact(rule.Text("verified_on"), "yyyy-MM-dd", CultureInfo.InvariantCulture, DateTimeStyles.None, out verified))
            {
                throw new FKSConfigException(path + ": " + key + ".verified_on must be a date like 2026-11-20");
            }
            OldestVerified = verified < OldestVerified ? verified : OldestVerified;
            switch (key)
            {
                case "max_loss":
                    MaxLoss = Positive(rule, key, path);
                    TrailsIntraday = rule.Text("trailing") == "intraday";
                    break;
                case "daily_loss":
                    DailyLoss = Positive(rule, key, path);
                    DailyBlocks = rule.Text("action") != "refuse";
                    break;
                case "max_lots":
                    MaxLots = Positive(rule, key, path);
                    MicroFactor = rule.Decimal("micro_factor") ?? 1m;
                    break;
                case "flat_by":
                    FlatBy = Clock(rule.Text("own") ?? rule.Text("value"), key, path);
                    NoEntriesFrom = rule.Has("no_entries_from") ? Clock(rule.Text("no_entries_from"), key, path) : FlatBy;
                    if (rule.Has("tz") && rule.Text("tz") != "America/Chicago")
                    {
                        throw new FKSConfigException(path + ": flat_by.tz must be America/Chicago");
                    }
                    break;
                case "automation":
                    Automation = rule.Text("value");
                    break;
            }
        }

        private void ReadNews(List<object> windows, string path)
        {
            foreach (object item in windows ?? new List<object>())
            {
                FKSObject window = item as FKSObject;
                if (window == null || window.Decimal("from_ms") == null || window.Decimal("to_ms") == null)
                {
                    throw new FKSConfigException(path + ": news must be a list of {\"from_ms\": …, \"to_ms\": …}");
                }
                News.Add(new KeyValuePair<long, long>(window.Long("from_ms", 0), window.Long("to_ms", 0)));
            }
        }

        private static decimal Positive(FKSObject rule, string key, string path)
        {
            decimal? found = rule.Decimal("value");
            if (found == null || found <= 0)
            {
                throw new FKSConfigException(path + ": " + key + ".value must be a number above 0");
            }
            return found.Value;
        }

        private static TimeSpan Clock(string text, string key, string path)
        {
            TimeSpan found;
            if (!TimeSpan.TryParseExact(text, "hh\\:mm", CultureInfo.InvariantCulture, out found))
            {
                throw new FKSConfigException(path + ": " + key + " must hold times like \"15:05\"");
            }
            return found;
        }
    }

    public sealed class FKSRisk
    {
        public const decimal OwnShare = 0.8m;

        private static readonly TimeZoneInfo Central = FindCentral();

        private readonly FKSConfig config;
        private readonly FKSRules rules;
        private readonly Dictionary<string, string> blocked = new Dictionary<string, string>(StringComparer.Ordinal);
        private readonly Dictionary<string, decimal> highest = new Dictionary<string, decimal>(StringComparer.Ordinal);
        private readonly Dictionary<string, string> highestDay = new Dictionary<string, string>(StringComparer.Ordinal);
        private readonly Dictionary<string, decimal> lastNet = new Dictionary<string, decimal>(StringComparer.Ordinal);
        private readonly Dictionary<string, string> flattened = new Dictionary<string, string>(StringComparer.Ordinal);
        private readonly Queue<long> times = new Queue<long>();

        public FKSRisk(FKSConfig config, FKSRules rules)
        {
            this.config = config;
            this.rules = rules;
        }

        private static TimeZoneInfo FindCentral()
        {
            try
            {
                return TimeZoneInfo.FindSystemTimeZoneById("Central Standard Time"); // Windows
            }
            catch (TimeZoneNotFoundException)
            {
                return TimeZoneInfo.FindSystemTimeZoneById("America/Chicago"); // mono on Linux
            }
        }

        public static DateTime CentralTime(long nowMs)
        {
            return TimeZoneInfo.ConvertTimeFromUtc(FKSClock.Utc(nowMs), Central);
        }

        /// <summary>US Central time as Unix milliseconds UTC.</summary>
        public static long CentralMs(DateTime local)
        {
            return FKSClock.Ms(TimeZoneInfo.ConvertTimeToUtc(DateTime.SpecifyKind(local, DateTimeKind.Unspecified), Central));
        }

        /// <summary>The exchange's trade date, which begins at 17:00 US Central time of the day before.</summary>
        public static string TradeDate(long nowMs)
        {
            DateTime local = CentralTime(nowMs);
            DateTime day = local.TimeOfDay >= TimeSpan.FromHours(17) ? local.Date.AddDays(1) : local.Date;
            while (day.DayOfWeek == DayOfWeek.Saturday || day.DayOfWeek == DayOfWeek.Sunday)
            {
                day = day.AddDays(1);
            }
            return day.ToString("yyyy-MM-dd", CultureInfo.InvariantCulture);
        }

        /// <summary>auto, relay or off. A live account needs a rule file that allows automation and was verified within 30 days.</summary>
        public string Mode(string account, bool simulation, long nowMs)
        {
            string found;
            if (!config.Accounts.TryGetValue(account, out found))
            {
                return "off";
            }
            if (simulation || found == "off")
            {
                return found;
            }
            if (rules == null)
            {
                return found == "relay" ? "relay" : "off"; // without rules nothing is sent; showing a signal sends nothing
            }
            bool old = (FKSClock.Utc(nowMs) - rules.OldestVerified).TotalDays > FKSRules.VerifiedDaysMax;
            bool allowed = rules.Automation != null && rules.Automation.StartsWith("allowed", StringComparison.Ordinal);
            return old || !allowed ? "relay" : found;
        }

        /// <summary>Count one accepted order against 5 a second and 60 a minute; a refusal where the budget is used up.</summary>
        public FKSRefusal CheckRate(long tickMs)
        {
            while (times.Count > 0 && tickMs - times.Peek() >= 60000)
            {
                times.Dequeue();
            }
            int second = 0;
            foreach (long at in times)
            {
                second += tickMs - at < 1000 ? 1 : 0;
            }
            if (second >= config.RatePerSecond || times.Count >= config.RatePerMinute)
            {
                return new FKSRefusal("rate_limited", "more than " + config.RatePerSecond + " signals a second or " + config.RatePerMinute + " a minute");
            }
            times.Enqueue(tickMs);
            return null;
        }

        /// <summary>Contracts as the firm counts them.</summary>
        private decimal Lots(string root, int qty)
        {
            bool micro = root.Length == 3 && (root[0] == 'M' || root == "M2K");
            return micro ? qty * rules.MicroFactor : qty;
        }

        /// <summary>Refuse an entry that a rule forbids. `worst` is the loss if this and all working entries reach their stops.</summary>
        public FKSRefusal CheckEntry(string account, string root, int qty, int exposure, decimal worst, FKSAccountValues values, bool simulation, long nowMs)
        {
            if (exposure + qty > config.MaxPosition)
            {
                return new FKSRefusal("position_limit", "exposure " + exposure + " and qty " + qty + " are above max_position " + config.MaxPosition);
            }
            string day;
            if (blocked.TryGetValue(account, out day) && day == TradeDate(nowMs))
            {
                return new FKSRefusal("daily_loss", "the account is blocked until the trade date after " + day);
            }
            if (rules == null)
            {
                return null;
            }
            if (rules.MaxLots != null && Lots(root, exposure + qty) > rules.MaxLots)
            {
                return new FKSRefusal("position_limit", "the group's rule allows " + FKSJson.Number(rules.MaxLots.Value) + " lots");
            }
            TimeSpan local = CentralTime(nowMs).TimeOfDay;
            if (rules.NoEntriesFrom != null && local >= rules.NoEntriesFrom && local < TimeSpan.FromHours(17))
            {
                return new FKSRefusal("outside_session", "no entries from " + rules.NoEntriesFrom.Value.ToString("hh\\:mm", CultureInfo.InvariantCulture) + " US Central time");
            }
            foreach (KeyValuePair<long, long> window in rules.News)
            {
                if (nowMs >= window.Key && nowMs < window.Value)
                {
                    return new FKSRefusal("news_block", "a news window of the rule file is open");
                }
            }
            return CheckLoss(account, worst, values, simulation);
        }

        private FKSRefusal CheckLoss(string account, decimal worst, FKSAccountValues values, bool simulation)
        {
            decimal? day = DayResult(values);
            if (rules.DailyLoss != null)
            {
                if (day == null && !simulation)
                {
                    return new FKSRefusal("daily_loss", "the account's result of today is unknown; unknown counts as failed");
                }
                if ((day ?? 0) - worst <= -OwnShare * rules.DailyLoss.Value)
                {
                    return new FKSRefusal("daily_loss", "result of today and open risk reach 80 % of the daily loss limit");
                }
            }
            if (rules.MaxLoss != null)
            {
                if (values.NetLiquidation == null)
                {
                    return simulation ? null : new FKSRefusal("drawdown", "the account's net liquidation is unknown; unknown counts as failed");
                }
                if (Room(account, values.NetLiquidation.Value) - worst <= (1 - OwnShare) * rules.MaxLoss.Value)
                {
                    return new FKSRefusal("drawdown", "open risk would use more than 80 % of the drawdown limit");
                }
            }
            return null;
        }

        /// <summary>Result since the session roll: the worse of the broker's figure and the bridge's own; null where neither is known.</summary>
        private static decimal? DayResult(FKSAccountValues values)
        {
            if (values.Realized == null)
            {
                return values.OwnRealized != 0 ? (decimal?)values.OwnRealized + (values.Unrealized ?? 0) : null;
            }
            return Math.Min(values.Realized.Value, values.OwnRealized == 0 ? values.Realized.Value : values.OwnRealized) + (values.Unrealized ?? 0);
        }

        private decimal Room(string account, decimal net)
        {
            decimal high;
            return rules.MaxLoss.Value - ((highest.TryGetValue(account, out high) ? high : net) - net);
        }

        /// <summary>Note the account's net liquidation for a trailing limit: at once (intraday) or the last value of a trade date (eod).
        /// Returns true where the highest value or its date changed; the caller writes both to the journal.</summary>
        public bool NoteEquity(string account, decimal? net, long nowMs, out decimal high, out string day)
        {
            high = 0;
            day = TradeDate(nowMs);
            if (rules == null || rules.MaxLoss == null || net == null)
            {
                return false;
            }
            string before;
            decimal last;
            bool known = highest.TryGetValue(account, out high);
            highestDay.TryGetValue(account, out before);
            decimal ended = lastNet.TryGetValue(account, out last) ? last : net.Value;
            decimal reached = !known || rules.TrailsIntraday ? net.Value : before != day ? ended : high;
            lastNet[account] = net.Value;
            if (known && reached <= high && before == day)
            {
                return false;
            }
            high = known ? Math.Max(high, reached) : reached;
            highest[account] = high;
            highestDay[account] = day;
            return true;
        }

        /// <summary>Set the highest balance that a trailing limit counts from, as read from the journal.</summary>
        public void RestoreHighest(string account, decimal value, string day)
        {
            highest[account] = value;
            highestDay[account] = day;
        }

        public void RestoreBlock(string account, string day)
        {
            blocked[account] = day;
        }

        public void Block(string account, long nowMs)
        {
            blocked[account] = TradeDate(nowMs);
        }

        public bool IsBlocked(string account, long nowMs)
        {
            string day;
            return blocked.TryGetValue(account, out day) && day == TradeDate(nowMs);
        }

        /// <summary>A limit that is reached now and demands to flatten the account; null where none is. Called each second.</summary>
        public FKSRefusal Breach(string account, FKSAccountValues values, bool hasPosition, long nowMs)
        {
            if (rules == null)
            {
                return null;
            }
            decimal? day = DayResult(values);
            if (rules.DailyLoss != null && rules.DailyBlocks && day != null && day <= -OwnShare * rules.DailyLoss.Value && !IsBlocked(account, nowMs))
            {
                return new FKSRefusal("daily_loss", "result of today is " + FKSJson.Number(day.Value));
            }
            if (rules.MaxLoss != null && values.NetLiquidation != null && !IsBlocked(account, nowMs)
                && Room(account, values.NetLiquidation.Value) <= (1 - OwnShare) * rules.MaxLoss.Value)
            {
                return new FKSRefusal("drawdown", "net liquidation is " + FKSJson.Number(values.NetLiquidation.Value));
            }
            string done;
            TimeSpan local = CentralTime(nowMs).TimeOfDay;
            bool due = rules.FlatBy != null && hasPosition && local >= rules.FlatBy && local < TimeSpan.FromHours(17);
            if (due && !(flattened.TryGetValue(account, out done) && done == TradeDate(nowMs)))
            {
                flattened[account] = TradeDate(nowMs);
                return new FKSRefusal("outside_session", "flat by " + rules.FlatBy.Value.ToString("hh\\:mm", CultureInfo.InvariantCulture) + " US Central time");
            }
            return null;
        }
    }
}
