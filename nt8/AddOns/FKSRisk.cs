// Account modes, limits, trading hours and loss limits of the group's rule file, and the block of an account for a trade date.
// The file's figures are the only ones used; an old, missing or incomplete file lowers the account's mode. Exits are never refused.
// Rules and verdicts are those of FKS's own evaluation (fks/trading/prop_rules): a rule that is missing is not known, "none" says there is none.
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

        /// <summary>Rules without which the figures of a group are not known. A firm without such a rule has the value "none".</summary>
        public static readonly string[] Required = new[] { "max_loss", "daily_loss", "max_lots", "flat_by", "automation" };

        public decimal? StartingBalance;
        public decimal? MaxLoss;
        public decimal? Lock;
        public string Trailing;
        public decimal? DailyLoss;
        public bool DailyBlocks;
        public decimal? MaxLots;
        public decimal MicroFactor = 1m;
        public TimeSpan? FlatBy;
        public TimeSpan? NoEntriesFrom;
        public TimeSpan BeforeEarlyClose = TimeSpan.FromMinutes(15);
        public string Automation;
        public bool NewsFlattens;
        public DateTime OldestVerified = DateTime.MaxValue;
        public DateTime NewestVerified = DateTime.MinValue;
        public readonly List<string> Missing = new List<string>(Required);
        public readonly List<KeyValuePair<long, long>> News = new List<KeyValuePair<long, long>>();

        private static readonly HashSet<string> Keys = new HashSet<string> { "max_loss", "daily_loss", "max_lots", "flat_by", "automation", "news" };

        private static readonly HashSet<string> Inner = new HashSet<string>
        {
            "value", "unit", "trailing", "source", "source_date", "verified_on", "verified_by", "action", "micro_factor", "tz", "own", "no_entries_from",
            "lock", "before_early_close_min"
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
            FKSObject whole;
            try
            {
                whole = FKSJson.ParseObject(text);
            }
            catch (FKSJsonException cause)
            {
                throw new FKSConfigException(path + " is no strict JSON object: " + cause.Message);
            }
            FKSObject rules = whole.Object("rules");
            if (rules == null)
            {
                throw new FKSConfigException(path + ": the key rules is missing");
            }
            FKSRules made = new FKSRules();
            made.StartingBalance = whole.Has("starting_balance") ? (decimal?)Positive(whole, "starting_balance", "starting_balance", path) : null;
            foreach (string key in rules.Keys)
            {
                if (!Keys.Contains(key))
                {
                    throw new FKSConfigException(path + ": unknown rule " + key);
                }
                if (key == "news" && rules.Object(key) == null)
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
                made.Missing.Remove(key);
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
            NewestVerified = verified > NewestVerified ? verified : NewestVerified;
            if (rule.Has("unit"))
            {
                Choice(rule, "unit", key, path, "USD");
            }
            bool isNone = rule.Text("value") == "none";
            switch (key)
            {
                case "max_loss":
                    MaxLoss = isNone ? null : (decimal?)Positive(rule, "value", key, path);
                    Trailing = isNone ? null : Choice(rule, "trailing", key, path, "eod", "intraday", "static");
                    Lock = rule.Decimal("lock");
                    if (Trailing == "static" && StartingBalance == null)
                    {
                        throw new FKSConfigException(path + ": max_loss.trailing static needs starting_balance beside rules");
                    }
                    if (Lock != null && StartingBalance == null)
                    {
                        throw new FKSConfigException(path + ": max_loss.lock needs starting_balance beside rules");
                    }
                    break;
                case "daily_loss":
                    DailyLoss = isNone ? null : (decimal?)Positive(rule, "value", key, path);
                    DailyBlocks = !rule.Has("action") || Choice(rule, "action", key, path, "flatten_and_block", "refuse") == "flatten_and_block";
                    break;
                case "max_lots":
                    MaxLots = isNone ? null : (decimal?)Positive(rule, "value", key, path);
                    MicroFactor = rule.Has("micro_factor") ? Positive(rule, "micro_factor", key, path) : 1m;
                    break;
                case "flat_by":
                    ReadFlatBy(isNone, rule, key, path);
                    break;
                case "automation":
                    Automation = Choice(rule, "value", key, path, "allowed", "allowed_monitored", "relay_only", "forbidden", "unknown");
                    break;
                case "news":
                    ReadNews(rule.List("value"), path);
                    NewsFlattens = rule.Has("action") && Choice(rule, "action", key, path, "refuse", "flatten_and_block") == "flatten_and_block";
                    break;
            }
        }

        private void ReadFlatBy(bool isNone, FKSObject rule, string key, string path)
        {
            if (rule.Has("tz") && rule.Text("tz") != "America/Chicago")
            {
                throw new FKSConfigException(path + ": flat_by.tz must be America/Chicago");
            }
            if (isNone)
            {
                return;
            }
            TimeSpan last = Clock(rule.Text("value"), key, path);
            FlatBy = rule.Has("own") ? Clock(rule.Text("own"), key, path) : last;
            NoEntriesFrom = rule.Has("no_entries_from") ? Clock(rule.Text("no_entries_from"), key, path) : FlatBy;
            if (rule.Has("before_early_close_min"))
            {
                BeforeEarlyClose = TimeSpan.FromMinutes((double)Positive(rule, "before_early_close_min", key, path));
            }
            if (last > FKSCalendar.Open || FlatBy > last || NoEntriesFrom > FlatBy)
            {
                throw new FKSConfigException(path + ": flat_by needs no_entries_from, own and value in this order, up to 17:00");
            }
        }

        private static string Choice(FKSObject rule, string name, string key, string path, params string[] choices)
        {
            string found = rule.Text(name);
            if (Array.IndexOf(choices, found) < 0)
            {
                throw new FKSConfigException(path + ": " + key + "." + name + " must be one of " + string.Join(", ", choices));
            }
            return found;
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

        private static decimal Positive(FKSObject rule, string name, string key, string path)
        {
            decimal? found = rule.Decimal(name);
            if (found == null || found <= 0)
            {
                throw new FKSConfigException(path + ": " + (name == key ? key : key + "." + name) + " must be a number above 0");
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

        private const long DemandAgainMs = 60000; // longer than a flatten may take
        private const long DemandAgainClosedMs = 43200000; // nothing can be closed while the market is: twice a day suffices

        private static readonly TimeZoneInfo Central = FindCentral();

        private readonly FKSConfig config;
        private readonly FKSRules rules;
        private readonly Dictionary<string, string> blocked = new Dictionary<string, string>(StringComparer.Ordinal);
        private readonly Dictionary<string, decimal> highest = new Dictionary<string, decimal>(StringComparer.Ordinal);
        private readonly Dictionary<string, string> highestDay = new Dictionary<string, string>(StringComparer.Ordinal);
        private readonly Dictionary<string, decimal> lastNet = new Dictionary<string, decimal>(StringComparer.Ordinal);
        private readonly Dictionary<string, long> demanded = new Dictionary<string, long>(StringComparer.Ordinal);
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

        /// <summary>The exchange's trade date, which begins at 17:00 US Central time of the evening before; days without a session are left out.</summary>
        public static DateTime TradeDay(long nowMs)
        {
            return FKSCalendar.TradeDay(CentralTime(nowMs));
        }

        /// <summary>The trade date as text like 2025-02-03.</summary>
        public static string TradeDate(long nowMs)
        {
            return TradeDay(nowMs).ToString("yyyy-MM-dd", CultureInfo.InvariantCulture);
        }

        /// <summary>True while the exchange trades, by its calendar.</summary>
        public static bool IsOpen(long nowMs)
        {
            return FKSCalendar.IsOpen(CentralTime(nowMs));
        }

        /// <summary>US Central time at which entries end and positions are closed on the trade date at hand; null without such a rule.
        /// On a day that closes early both are moved: before the close, and as far apart as on other days.</summary>
        public static void Hours(FKSRules rules, DateTime local, out DateTime? entriesEnd, out DateTime? flatAt)
        {
            entriesEnd = null;
            flatAt = null;
            if (rules.FlatBy == null)
            {
                return;
            }
            DateTime day = FKSCalendar.TradeDay(local);
            TimeSpan close = FKSCalendar.SessionClose(day).Value;
            TimeSpan flat = rules.FlatBy.Value;
            TimeSpan entries = rules.NoEntriesFrom.Value;
            if (close < FKSCalendar.Close)
            {
                TimeSpan apart = flat - entries;
                TimeSpan early = close - rules.BeforeEarlyClose;
                flat = flat < early ? flat : early;
                entries = entries < flat - apart ? entries : flat - apart;
            }
            entriesEnd = day + entries;
            flatAt = day + flat;
        }

        /// <summary>auto, relay or off. A live account needs a complete rule file that allows automation and was verified within 30 days.</summary>
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
            DateTime today = FKSClock.Utc(nowMs).Date;
            if (rules.Missing.Count > 0 || rules.NewestVerified > today)
            {
                return "off"; // a figure that is not known, or a date that cannot be true
            }
            bool old = (today - rules.OldestVerified).TotalDays > FKSRules.VerifiedDaysMax;
            bool allowed = rules.Automation == "allowed" || rules.Automation == "allowed_monitored";
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
        public decimal Lots(string root, int qty)
        {
            FKSContract contract = FKSContracts.Find(root);
            return rules != null && contract != null && contract.IsMicro ? qty * rules.MicroFactor : qty;
        }

        /// <summary>Refuse an entry that a rule forbids. `exposure`: contracts held and working without this entry; `lots`: all of them and this entry
        /// as the firm counts; `worst`: the loss if this and all working entries reach their stops.</summary>
        public FKSRefusal CheckEntry(string account, int qty, int exposure, decimal lots, decimal worst, FKSAccountValues values, bool simulation, long nowMs)
        {
            if (exposure + qty > config.MaxPosition)
            {
                return new FKSRefusal("position_limit", "exposure " + exposure + " and qty " + qty + " are above max_position " + config.MaxPosition);
            }
            FKSRefusal refusal = rules == null ? null : CheckHours(nowMs);
            if (refusal != null)
            {
                return refusal;
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
            if (rules.MaxLots != null && lots > rules.MaxLots)
            {
                return new FKSRefusal("position_limit", FKSJson.Number(lots) + " lots with this one, the group's rule allows " + FKSJson.Number(rules.MaxLots.Value));
            }
            return CheckLoss(account, worst, values, simulation);
        }

        private FKSRefusal CheckHours(long nowMs)
        {
            DateTime local = CentralTime(nowMs);
            if (!FKSCalendar.IsOpen(local))
            {
                return new FKSRefusal("outside_session", "the market is closed, the next trade date is " + TradeDate(nowMs));
            }
            DateTime? entriesEnd;
            DateTime? flatAt;
            Hours(rules, local, out entriesEnd, out flatAt);
            if (entriesEnd != null && local >= entriesEnd)
            {
                return new FKSRefusal("outside_session", "no entries from " + entriesEnd.Value.ToString("HH:mm", CultureInfo.InvariantCulture) + " US Central time");
            }
            return IsNews(nowMs) ? new FKSRefusal("news_block", "a news window of the rule file is open") : null;
        }

        private bool IsNews(long nowMs)
        {
            return rules.News.Exists(delegate(KeyValuePair<long, long> window) { return nowMs >= window.Key && nowMs < window.Value; });
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
                decimal room = Room(account, values.NetLiquidation.Value);
                if (worst >= OwnShare * room || room - worst <= (1 - OwnShare) * rules.MaxLoss.Value)
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

        /// <summary>Distance of the net liquidation to the firm's threshold: the highest value less the limit, never below the one of the starting
        /// balance, and no further than the lock.</summary>
        private decimal Room(string account, decimal net)
        {
            decimal high;
            decimal counted = highest.TryGetValue(account, out high) ? high : net;
            if (rules.StartingBalance != null)
            {
                counted = rules.Trailing == "static" ? rules.StartingBalance.Value : Math.Max(counted, rules.StartingBalance.Value);
            }
            decimal threshold = counted - rules.MaxLoss.Value;
            return net - (rules.Lock == null ? threshold : Math.Min(threshold, rules.StartingBalance.Value + rules.Lock.Value));
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
            decimal reached = !known || rules.Trailing == "intraday" ? net.Value : before != day ? ended : high;
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

        /// <summary>The highest balance that a trailing limit counts from; null while there is none.</summary>
        public decimal? Highest(string account)
        {
            decimal found;
            return highest.TryGetValue(account, out found) ? (decimal?)found : null;
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

        /// <summary>A limit that is reached now and demands to flatten the account and to block it; null where none is. Called each second: it is
        /// demanded again each minute while there still is a position or a working entry, also one that was opened after the first time.</summary>
        public FKSRefusal Breach(string account, FKSAccountValues values, bool hasRisk, long nowMs)
        {
            FKSRefusal found = rules == null ? null : Reached(account, values, hasRisk, nowMs);
            if (found == null || (!hasRisk && IsBlocked(account, nowMs)))
            {
                return null;
            }
            long before;
            long pause = IsOpen(nowMs) ? DemandAgainMs : DemandAgainClosedMs;
            string key = account + "|" + found.Code;
            if (demanded.TryGetValue(key, out before) && nowMs >= before && nowMs - before < pause)
            {
                return null;
            }
            demanded[key] = nowMs;
            return found;
        }

        private FKSRefusal Reached(string account, FKSAccountValues values, bool hasRisk, long nowMs)
        {
            DateTime local = CentralTime(nowMs);
            bool isOpen = FKSCalendar.IsOpen(local);
            decimal? day = DayResult(values);
            if (isOpen && rules.DailyLoss != null && rules.DailyBlocks && day != null && day <= -OwnShare * rules.DailyLoss.Value)
            {
                return new FKSRefusal("daily_loss", "result of today is " + FKSJson.Number(day.Value));
            }
            if (isOpen && rules.MaxLoss != null && values.NetLiquidation != null
                && Room(account, values.NetLiquidation.Value) <= (1 - OwnShare) * rules.MaxLoss.Value)
            {
                return new FKSRefusal("drawdown", "net liquidation is " + FKSJson.Number(values.NetLiquidation.Value));
            }
            DateTime? entriesEnd;
            DateTime? flatAt;
            Hours(rules, local, out entriesEnd, out flatAt);
            if (flatAt != null && hasRisk && (local >= flatAt || !isOpen))
            {
                return new FKSRefusal("outside_session", "flat by " + flatAt.Value.ToString("HH:mm", CultureInfo.InvariantCulture) + " US Central time");
            }
            return rules.NewsFlattens && hasRisk && IsNews(nowMs) ? new FKSRefusal("news_block", "flat while a news window of the rule file is open") : null;
        }
    }
}
