// Messages of the wire protocol fks1: field checks, codes, the seed form, authentication codes and price rounding.
// Pure functions of their arguments: no socket, no clock, no NinjaTrader types.
using System;
using System.Collections.Generic;
using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using System.Text.RegularExpressions;

namespace NinjaTrader.NinjaScript.AddOns
{
    /// <summary>A refused request: code of the protocol and one sentence for a person.</summary>
    public sealed class FKSRefusal
    {
        public readonly string Code;
        public readonly string Detail;

        public FKSRefusal(string code, string detail)
        {
            Code = code;
            Detail = detail.Length > 200 ? detail.Substring(0, 200) : detail;
        }

        public bool Final
        {
            get { return !FKSProtocol.NotFinal.Contains(Code); }
        }
    }

    /// <summary>A new intention as sent by the client. Prices are instrument price units, times Unix milliseconds UTC.</summary>
    public sealed class FKSSignal
    {
        public string Id;
        public string Account;
        public string Instrument;
        public string Action;
        public int Qty;
        public string Type;
        public decimal? Price;
        public decimal? StopPrice;
        public string Tif;
        public decimal? SlPoints;
        public decimal? SlPrice;
        public decimal? TpPoints;
        public decimal? TpPrice;
        public long CreatedMs;
        public long ValidUntil;
        public string Strategy;
        public string Note;
        public List<object> Entries; // of an exit: ids of the entries that it closes; null = all

        public bool IsBuy
        {
            get { return Action == "buy"; }
        }

        public bool IsExit
        {
            get { return Action == "exit"; }
        }

        /// <summary>True where this exit closes what the entry of this id has opened.</summary>
        public bool Closes(string id)
        {
            return Entries == null || Entries.Contains(id);
        }

        public bool HasStop
        {
            get { return SlPoints != null || SlPrice != null; }
        }

        public FKSObject ToJson()
        {
            return new FKSObject().Set("id", Id).Set("account", Account).Set("instrument", Instrument).Set("action", Action)
                .Set("qty", Qty).Set("type", Type).SetIf("price", Price).SetIf("stop_price", StopPrice).Set("tif", Tif)
                .SetIf("sl_points", SlPoints).SetIf("sl_price", SlPrice).SetIf("tp_points", TpPoints).SetIf("tp_price", TpPrice)
                .Set("created_ms", CreatedMs).Set("valid_until", ValidUntil).SetIf("strategy", Strategy).SetIf("note", Note).SetIf("entries", Entries);
        }

        /// <summary>What makes two signals the same intention: every trading field, not the times and the note.</summary>
        public string Content()
        {
            FKSObject found = ToJson();
            FKSObject kept = new FKSObject();
            foreach (string key in found.Keys)
            {
                if (key != "created_ms" && key != "valid_until" && key != "note")
                {
                    kept.Set(key, found.Get(key));
                }
            }
            return FKSJson.Canonical(kept);
        }

        public static FKSSignal FromJson(FKSObject m)
        {
            FKSSignal s = new FKSSignal();
            s.Id = m.Text("id");
            s.Account = m.Text("account");
            s.Instrument = m.Text("instrument");
            string action = m.Text("action");
            s.Action = action == "long" ? "buy" : action == "short" ? "sell" : action;
            s.Qty = m.Int("qty", 0);
            s.Type = m.Text("type") ?? "market";
            s.Price = m.Decimal("price");
            s.StopPrice = m.Decimal("stop_price");
            s.Tif = m.Text("tif") ?? "day";
            s.SlPoints = m.Decimal("sl_points");
            s.SlPrice = m.Decimal("sl_price");
            s.TpPoints = m.Decimal("tp_points");
            s.TpPrice = m.Decimal("tp_price");
            s.CreatedMs = m.Long("created_ms", 0);
            s.ValidUntil = m.Long("valid_until", 0);
            s.Strategy = m.Text("strategy");
            s.Note = m.Text("note");
            s.Entries = m.List("entries");
            return s;
        }
    }

    /// <summary>Parts of an order name "FKS:id:role[n]".</summary>
    public sealed class FKSName
    {
        public string Id;
        public string Role;
        public int Lot;
    }

    /// <summary>The lines of one direction of one session, in order: 64 hex digits of the MAC of number and line, a space, the line.
    /// A line that was changed, repeated, left out or moved on the way does not open.</summary>
    public sealed class FKSLineMac
    {
        public const int Length = 65;
        private readonly HMACSHA256 mac;
        private ulong number;

        internal FKSLineMac(byte[] key)
        {
            mac = new HMACSHA256(key);
        }

        /// <summary>The next line, which has its LF, with its MAC.</summary>
        public byte[] Seal(byte[] line)
        {
            byte[] made = new byte[Length + line.Length];
            Buffer.BlockCopy(line, 0, made, Length, line.Length);
            Head(made, line.Length - 1).CopyTo(made, 0);
            return made;
        }

        /// <summary>The next line, without LF, without its MAC; null where it does not have it.</summary>
        public byte[] Open(byte[] line)
        {
            byte[] head = Head(line, line.Length - Length);
            int difference = line.Length < Length ? 1 : 0;
            for (int i = 0; i < Length && i < line.Length; i++)
            {
                difference |= head[i] ^ line[i];
            }
            if (difference != 0)
            {
                return null;
            }
            byte[] body = new byte[line.Length - Length];
            Buffer.BlockCopy(line, Length, body, 0, body.Length);
            return body;
        }

        private byte[] Head(byte[] line, int length)
        {
            number++;
            length = Math.Max(length, 0);
            byte[] covered = new byte[8 + length];
            for (int i = 0; i < 8; i++)
            {
                covered[i] = (byte)(number >> (56 - 8 * i));
            }
            Buffer.BlockCopy(line, Math.Min(Length, line.Length), covered, 8, length);
            return FKSJson.Encode(FKSProtocol.Hex(mac.ComputeHash(covered)) + " ");
        }
    }

    public static class FKSProtocol
    {
        public const int Version = 1;
        public const string Bridge = "fks-nt8/1.0.0";
        public const int LineMax = 65536;
        public const int LineMaxUnauthenticated = 4096;
        public const string NonceMark = "666b7331";
        public const long ValidityMaxMs = 24L * 3600 * 1000;
        public const int EntriesMax = 100;
        /// <summary>In `welcome`: what this bridge can do beyond the first version.</summary>
        public static readonly string[] Features = { "exit_entries", "line_mac" };

        /// <summary>The client may send the same id again after these codes; after every other one it never changes.</summary>
        public static readonly HashSet<string> NotFinal = new HashSet<string>
        {
            "no_quote", "not_ready", "replaying", "not_connected", "price_feed_lost", "flattening", "rate_limited", "not_control", "halted",
            "journal_error"
        };

        private static readonly Regex IdForm = new Regex("^[A-Za-z0-9_-]{1,32}\\z", RegexOptions.CultureInvariant);
        private static readonly Regex NameForm = new Regex("^FKS:([A-Za-z0-9_-]{1,32}):([EST])([2-9]|[1-9][0-9])?\\z", RegexOptions.CultureInvariant);
        private static readonly Regex ContractForm = new Regex("^([A-Z0-9]{1,8}) (0[1-9]|1[0-2])-([0-9]{2})\\z", RegexOptions.CultureInvariant);
        private static readonly Regex Hex32 = new Regex("^[0-9a-f]{32}\\z", RegexOptions.CultureInvariant);
        private static readonly Regex Hex64 = new Regex("^[0-9a-f]{64}\\z", RegexOptions.CultureInvariant);

        // ---- names ----

        public static bool IsId(string text)
        {
            return text != null && IdForm.IsMatch(text);
        }

        public static bool IsHex(string text, int length)
        {
            return text != null && (length == 32 ? Hex32 : Hex64).IsMatch(text);
        }

        /// <summary>The order name of a signal's entry (E), stop (S) or target (T); lot numbers start at 1.</summary>
        public static string OrderName(string id, string role, int lot)
        {
            return "FKS:" + id + ":" + role + (lot > 1 ? lot.ToString(CultureInfo.InvariantCulture) : "");
        }

        /// <summary>The parts of an order name; null where the order is not ours.</summary>
        public static FKSName ParseName(string name)
        {
            Match found = NameForm.Match(name ?? "");
            if (!found.Success)
            {
                return null;
            }
            FKSName made = new FKSName();
            made.Id = found.Groups[1].Value;
            made.Role = found.Groups[2].Value;
            made.Lot = found.Groups[3].Success ? int.Parse(found.Groups[3].Value, CultureInfo.InvariantCulture) : 1;
            return made;
        }

        /// <summary>Root, year and month of "ES 03-25"; false where the text has another form.</summary>
        public static bool ParseContract(string text, out string root, out int year, out int month)
        {
            Match found = ContractForm.Match(text ?? "");
            root = found.Success ? found.Groups[1].Value : null;
            month = found.Success ? int.Parse(found.Groups[2].Value, CultureInfo.InvariantCulture) : 0;
            year = found.Success ? 2000 + int.Parse(found.Groups[3].Value, CultureInfo.InvariantCulture) : 0;
            return found.Success;
        }

        public static string Contract(string root, DateTime expiry)
        {
            return root + " " + expiry.ToString("MM-yy", CultureInfo.InvariantCulture);
        }

        // ---- signal ----

        private static readonly Dictionary<string, string> SignalFields = new Dictionary<string, string>
        {
            { "id", "text 32" }, { "account", "text 50" }, { "instrument", "text 32" }, { "action", "text 8" }, { "qty", "int" },
            { "type", "text 10" }, { "price", "price" }, { "stop_price", "price" }, { "tif", "text 3" }, { "sl_points", "decimal" },
            { "sl_price", "price" }, { "tp_points", "decimal" }, { "tp_price", "price" }, { "created_ms", "time" }, { "valid_until", "time" },
            { "strategy", "text 32" }, { "note", "text 120" }, { "entries", "list" }
        };

        /// <summary>Check the fields of a `signal`. Returns null and sets `refusal` where one is wrong, missing or unknown.</summary>
        public static FKSSignal ParseSignal(FKSObject m, int qtyMax, out FKSRefusal refusal)
        {
            refusal = CheckFields(m, SignalFields, "id", "account", "instrument", "action", "created_ms", "valid_until");
            if (refusal != null)
            {
                return null;
            }
            refusal = CheckSignal(m, qtyMax);
            return refusal == null ? FKSSignal.FromJson(m) : null;
        }

        private static FKSRefusal CheckSignal(FKSObject m, int qtyMax)
        {
            if (!IsId(m.Text("id")))
            {
                return Bad("id must match [A-Za-z0-9_-]{1,32}");
            }
            string root;
            int year;
            int month;
            if (!ParseContract(m.Text("instrument"), out root, out year, out month))
            {
                return Bad("instrument must look like ES 03-25");
            }
            string action = m.Text("action");
            if (Array.IndexOf(new[] { "buy", "sell", "long", "short", "exit" }, action) < 0)
            {
                return Bad("action must be buy, sell, long, short or exit");
            }
            if (m.Get("tif") != null && Array.IndexOf(new[] { "day", "gtc", "ioc" }, m.Text("tif")) < 0)
            {
                return Bad("tif must be day, gtc or ioc");
            }
            if (m.Get("qty") != null && m.Decimal("qty") < 1)
            {
                return Bad("qty must be 1 or more");
            }
            bool exit = action == "exit";
            List<object> entries = m.List("entries");
            bool listed = entries != null && entries.Count > 0 && entries.Count <= EntriesMax && entries.TrueForAll(delegate(object id) { return IsId(id as string); });
            if (m.Has("entries") && !(exit && listed))
            {
                return Bad("entries are 1 to " + EntriesMax + " ids, and only of an exit");
            }
            if (!exit && m.Get("qty") == null)
            {
                return Missing("qty");
            }
            if (!exit && m.Get("type") == null)
            {
                return Missing("type");
            }
            if (m.Get("qty") != null && m.Decimal("qty") > qtyMax)
            {
                return new FKSRefusal("qty_limit", "qty " + FKSJson.Number(m.Decimal("qty").Value) + " is above max_qty " + qtyMax);
            }
            FKSRefusal prices = CheckPrices(m, exit);
            return prices;
        }

        private static FKSRefusal CheckPrices(FKSObject m, bool exit)
        {
            string type = m.Text("type") ?? "market";
            if (Array.IndexOf(new[] { "market", "limit", "stop", "stop_limit" }, type) < 0)
            {
                return Bad("type must be market, limit, stop or stop_limit");
            }
            if (exit)
            {
                if (type != "market")
                {
                    return Bad("an exit is a market order");
                }
                foreach (string key in new[] { "price", "stop_price", "sl_points", "sl_price", "tp_points", "tp_price" })
                {
                    if (m.Get(key) != null)
                    {
                        return Bad(key + " is not allowed with action exit");
                    }
                }
                return null;
            }
            bool limit = type == "limit" || type == "stop_limit";
            bool stop = type == "stop" || type == "stop_limit";
            if (limit && m.Get("price") == null)
            {
                return Missing("price");
            }
            if (stop && m.Get("stop_price") == null)
            {
                return Missing("stop_price");
            }
            if (!limit && m.Get("price") != null)
            {
                return Bad("price is not allowed with type " + type);
            }
            if (!stop && m.Get("stop_price") != null)
            {
                return Bad("stop_price is not allowed with type " + type);
            }
            if (m.Get("sl_points") != null && m.Get("sl_price") != null)
            {
                return Bad("sl_points and sl_price exclude each other");
            }
            if (m.Get("tp_points") != null && m.Get("tp_price") != null)
            {
                return Bad("tp_points and tp_price exclude each other");
            }
            if (m.Decimal("sl_points") <= 0 || m.Decimal("tp_points") <= 0)
            {
                return new FKSRefusal("bad_bracket", "sl_points and tp_points must be above 0");
            }
            return null;
        }

        // ---- other requests ----

        private static readonly Dictionary<string, Dictionary<string, string>> RequestFields = new Dictionary<string, Dictionary<string, string>>
        {
            { "query", new Dictionary<string, string> { { "rid", "text 32" }, { "id", "text 32" } } },
            { "cancel", new Dictionary<string, string> { { "rid", "text 32" }, { "id", "text 32" } } },
            { "modify", new Dictionary<string, string> { { "rid", "text 32" }, { "id", "text 32" }, { "sl_price", "price" }, { "tp_price", "price" } } },
            { "flatten", new Dictionary<string, string> { { "rid", "text 32" }, { "account", "text 50" }, { "instruments", "any" }, { "reason", "text 120" } } },
            { "kill", new Dictionary<string, string> { { "rid", "text 32" }, { "reason", "text 120" } } },
            { "resume", new Dictionary<string, string> { { "rid", "text 32" }, { "reason", "text 120" } } },
            { "status", new Dictionary<string, string> { { "rid", "text 32" } } },
            { "subscribe", new Dictionary<string, string> { { "rid", "text 32" }, { "instruments", "list" }, { "quotes", "flag" } } },
            { "unsubscribe", new Dictionary<string, string> { { "rid", "text 32" }, { "instruments", "list" }, { "quotes", "flag" } } },
            { "history", new Dictionary<string, string> { { "rid", "text 32" }, { "instrument", "text 32" }, { "from_ms", "time" }, { "to_ms", "time" }, { "period", "text 2" } } }
        };

        private static readonly HashSet<string> Strict = new HashSet<string> { "modify", "flatten", "kill" };

        /// <summary>Check the fields of a request that is not a signal; null where they are in order.</summary>
        public static FKSRefusal CheckRequest(string type, FKSObject m)
        {
            Dictionary<string, string> fields = RequestFields[type];
            FKSObject known = m;
            if (!Strict.Contains(type))
            {
                known = new FKSObject();
                foreach (string key in m.Keys)
                {
                    if (fields.ContainsKey(key) || key == "t")
                    {
                        known.Set(key, m.Get(key));
                    }
                }
            }
            switch (type)
            {
                case "modify":
                    FKSRefusal modify = CheckFields(known, fields, "rid", "id");
                    return modify ?? (m.Get("sl_price") == null && m.Get("tp_price") == null ? Missing("sl_price or tp_price") : null);
                case "flatten":
                    return CheckFields(known, fields, "rid", "account", "instruments", "reason") ?? CheckInstruments(m.Get("instruments"), true);
                case "subscribe":
                case "unsubscribe":
                    return CheckFields(known, fields, "rid", "instruments") ?? CheckInstruments(m.Get("instruments"), false);
                case "history":
                    return CheckFields(known, fields, "rid", "instrument", "from_ms", "to_ms", "period");
                case "kill":
                case "resume":
                    return CheckFields(known, fields, "rid", "reason");
                case "status":
                    return CheckFields(known, fields, "rid");
                default:
                    return CheckFields(known, fields, "rid", "id");
            }
        }

        private static FKSRefusal CheckInstruments(object value, bool all)
        {
            if (all && "all".Equals(value))
            {
                return null;
            }
            List<object> found = value as List<object>;
            if (found == null || found.Count == 0 || found.Count > 50)
            {
                return Bad("instruments must be a list of 1 to 50 names" + (all ? " or \"all\"" : ""));
            }
            foreach (object item in found)
            {
                if (!(item is string) || ((string)item).Length > 32)
                {
                    return Bad("instruments must hold names like ES 03-25");
                }
            }
            return null;
        }

        /// <summary>Check the opening message; null where it is in order.</summary>
        public static FKSRefusal CheckHello(FKSObject m)
        {
            if (m.Long("v", 0) != Version)
            {
                return new FKSRefusal("version", "this bridge speaks version 1");
            }
            FKSRefusal found = CheckText(m, "client", 64) ?? CheckText(m, "group", 32) ?? CheckText(m, "role", 16);
            if (found != null)
            {
                return found;
            }
            if (!IsHex(m.Text("instance"), 32) || !IsHex(m.Text("nonce"), 64))
            {
                return Bad("instance must be 32 and nonce 64 hexadecimal digits, lower case");
            }
            return Array.IndexOf(new[] { "control", "guardian", "observe", "data" }, m.Text("role")) < 0
                ? Bad("role must be control, guardian, observe or data") : null;
        }

        private static FKSRefusal CheckText(FKSObject m, string key, int most)
        {
            string found = m.Text(key);
            return string.IsNullOrEmpty(found) || found.Length > most ? Bad(key + " must be a text of 1 to " + most + " characters") : null;
        }

        private static FKSRefusal CheckFields(FKSObject m, Dictionary<string, string> fields, params string[] required)
        {
            foreach (string key in m.Keys)
            {
                if (key != "t" && !fields.ContainsKey(key))
                {
                    return new FKSRefusal("unknown_field", "unknown field " + (key.Length > 40 ? key.Substring(0, 40) : key));
                }
            }
            foreach (string key in required)
            {
                if (m.Get(key) == null)
                {
                    return Missing(key);
                }
            }
            foreach (string key in m.Keys)
            {
                if (key == "t" || m.Get(key) == null)
                {
                    continue; // null stands for an absent optional field
                }
                FKSRefusal found = CheckField(key, m.Get(key), fields[key]);
                if (found != null)
                {
                    return found;
                }
            }
            return null;
        }

        private static FKSRefusal CheckField(string key, object value, string form)
        {
            if (form.StartsWith("text", StringComparison.Ordinal))
            {
                int most = int.Parse(form.Substring(5), CultureInfo.InvariantCulture);
                string found = value as string;
                return found == null || found.Length == 0 || found.Length > most ? Bad(key + " must be a text of 1 to " + most + " characters") : null;
            }
            if (form == "flag")
            {
                return value is bool ? null : Bad(key + " must be true or false");
            }
            if (form == "any" || form == "list")
            {
                return null;
            }
            if (!(value is decimal))
            {
                return Bad(key + " must be a number");
            }
            decimal number = (decimal)value;
            if ((form == "int" || form == "time") && number != Math.Floor(number))
            {
                return Bad(key + " must be a whole number");
            }
            if (form == "int" && (number < int.MinValue || number > int.MaxValue))
            {
                return Bad(key + " is out of range");
            }
            if (form == "time" && number < 0)
            {
                return Bad(key + " must not be negative");
            }
            if ((form == "price" || form == "decimal") && Math.Abs(number) > 100000000m)
            {
                return Bad(key + " is out of range");
            }
            return null;
        }

        private static FKSRefusal Bad(string detail)
        {
            return new FKSRefusal("bad_field", detail);
        }

        private static FKSRefusal Missing(string key)
        {
            return new FKSRefusal("missing_field", key + " is missing");
        }

        // ---- seed form ----

        private static readonly HashSet<string> SeedFields = new HashSet<string>
        {
            "action", "instrument", "price", "tp_points", "sl_points", "quantity", "account"
        };

        /// <summary>Translate the seed form into a signal message; `account` is used where the line names none.</summary>
        public static FKSObject FromSeed(FKSObject seed, string account, string entryType, string id, long nowMs, out FKSRefusal refusal)
        {
            refusal = null;
            foreach (string key in seed.Keys)
            {
                if (!SeedFields.Contains(key))
                {
                    refusal = new FKSRefusal("unknown_field", "unknown field " + (key.Length > 40 ? key.Substring(0, 40) : key));
                    return null;
                }
            }
            string named = seed.Text("account");
            FKSObject made = new FKSObject().Set("t", "signal").Set("id", id).Set("account", named ?? account).Set("instrument", seed.Get("instrument"))
                .Set("action", seed.Get("action")).Set("qty", seed.Get("quantity") ?? 1m).Set("type", entryType).Set("tif", "day")
                .SetIf("sl_points", seed.Get("sl_points")).SetIf("tp_points", seed.Get("tp_points")).Set("created_ms", nowMs).Set("valid_until", nowMs + 30000);
            if ("exit".Equals(seed.Get("action")))
            {
                refusal = Bad("action must be buy, sell, long or short");
                return null;
            }
            if (entryType == "limit")
            {
                made.Set("price", seed.Get("price"));
            }
            return made;
        }

        /// <summary>The id of a seed line that arrived at `nowMs`: s, 12 hex of its SHA-256, the second in hex.</summary>
        public static string SeedId(FKSObject seed, long nowMs)
        {
            using (SHA256 hash = SHA256.Create())
            {
                string digest = Hex(hash.ComputeHash(FKSJson.Encode(FKSJson.Canonical(seed))));
                return "s" + digest.Substring(0, 12) + "-" + (nowMs / 1000).ToString("x", CultureInfo.InvariantCulture);
            }
        }

        /// <summary>Id of a signal that is made on this PC: `source` tells charts apart, `bar` and `action` the signals of one.</summary>
        public static string LocalId(string source, DateTime bar, string action)
        {
            using (SHA256 hash = SHA256.Create())
            {
                string digest = Hex(hash.ComputeHash(FKSJson.Encode(source)));
                return "L" + digest.Substring(0, 12) + "-" + bar.ToString("yyyyMMddHHmmss", CultureInfo.InvariantCulture) + "-" + action.Substring(0, 1);
            }
        }

        // ---- authentication ----

        public static string ClientMac(byte[] secret, string challengeNonce, string helloNonce, string instance, string group)
        {
            return Mac(secret, "fks1\nclient\n" + challengeNonce + "\n" + helloNonce + "\n" + instance + "\n" + group);
        }

        public static string BridgeMac(byte[] secret, string challengeNonce, string helloNonce, string epoch, string group)
        {
            return Mac(secret, "fks1\nbridge\n" + helloNonce + "\n" + challengeNonce + "\n" + epoch + "\n" + group);
        }

        private static string Mac(byte[] secret, string text)
        {
            return Hex(MacBytes(secret, text));
        }

        private static byte[] MacBytes(byte[] secret, string text)
        {
            using (HMACSHA256 mac = new HMACSHA256(secret))
            {
                return mac.ComputeHash(FKSJson.Encode(text));
            }
        }

        /// <summary>The nonce of an end that can put a MAC on each line. Both nonces are in both MACs of the opening, so nobody in
        /// between can take the mark out or put it in.</summary>
        public static string Marked(string nonce)
        {
            return NonceMark + nonce.Substring(NonceMark.Length);
        }

        public static bool IsMarked(string nonce)
        {
            return nonce.StartsWith(NonceMark, StringComparison.Ordinal);
        }

        /// <summary>The MACs of the lines of one end ("client" or "bridge") of one session.</summary>
        public static FKSLineMac LineMac(byte[] secret, string end, string challengeNonce, FKSObject hello)
        {
            return new FKSLineMac(MacBytes(secret, "fks1\nlines\n" + end + "\n" + challengeNonce + "\n" + hello.Text("nonce") + "\n"
                + hello.Text("instance") + "\n" + hello.Text("group") + "\n" + hello.Text("role")));
        }

        /// <summary>Compare in a time that does not depend on the content.</summary>
        public static bool SameText(string a, string b)
        {
            if (a == null || b == null || a.Length != b.Length)
            {
                return false;
            }
            int difference = 0;
            for (int i = 0; i < a.Length; i++)
            {
                difference |= a[i] ^ b[i];
            }
            return difference == 0;
        }

        public static string RandomHex(int bytes)
        {
            byte[] made = new byte[bytes];
            using (RNGCryptoServiceProvider source = new RNGCryptoServiceProvider())
            {
                source.GetBytes(made);
            }
            return Hex(made);
        }

        public static string Hex(byte[] bytes)
        {
            StringBuilder text = new StringBuilder(bytes.Length * 2);
            foreach (byte b in bytes)
            {
                text.Append(b.ToString("x2", CultureInfo.InvariantCulture));
            }
            return text.ToString();
        }

        // ---- prices ----

        /// <summary>The nearest multiple of `tick` at or above (up) or at or below (down) `price`.</summary>
        public static decimal RoundToTick(decimal price, decimal tick, bool up)
        {
            decimal steps = price / tick;
            return (up ? Math.Ceiling(steps) : Math.Floor(steps)) * tick;
        }

        /// <summary>Entry limit: buy down, sell up (never worse than asked). Entry stop: buy up, sell down.</summary>
        public static decimal EntryPrice(decimal price, decimal tick, bool buy, bool stop)
        {
            return RoundToTick(price, tick, stop ? buy : !buy);
        }

        /// <summary>Protective price rounded towards the entry, so that rounding never enlarges the risk.</summary>
        public static decimal ExitPrice(decimal price, decimal tick, bool buyEntry, bool stop)
        {
            return RoundToTick(price, tick, stop ? buyEntry : !buyEntry);
        }

        // ---- messages of the bridge ----

        public static FKSObject Message(string type)
        {
            return new FKSObject().Set("t", type);
        }

        public static FKSObject Nack(string id, FKSRefusal refusal, long nowMs)
        {
            return Message("nack").Set("id", id).Set("code", refusal.Code).Set("detail", refusal.Detail).Set("final", refusal.Final).Set("at_ms", nowMs);
        }

        public static FKSObject Result(string rid, bool ok)
        {
            return Message("result").Set("rid", rid).Set("ok", ok);
        }

        public static FKSObject Refused(string rid, FKSRefusal refusal)
        {
            return Result(rid, false).Set("code", refusal.Code).Set("detail", refusal.Detail);
        }

        public static FKSObject Error(string code, string detail, long line)
        {
            return Message("error").Set("code", code).Set("detail", detail).Set("line_no", line);
        }

        public static FKSObject Bye(string code, string detail, long retryAfterMs)
        {
            return Message("bye").Set("code", code).Set("detail", detail).Set("retry_after_ms", retryAfterMs);
        }

        public static FKSObject SeedAnswer(bool success, string message, string id)
        {
            return new FKSObject().Set("success", success).Set("message", message).Set("signal_id", id);
        }
    }
}
