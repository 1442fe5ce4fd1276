// Settings of the bridge: fks\config.json and fks\secret.key in the NinjaTrader user folder. An unknown key refuses the start.
using System;
using System.Collections.Generic;
using System.IO;
using System.Text;

namespace NinjaTrader.NinjaScript.AddOns
{
    /// <summary>The configuration cannot be used. The message names the key, the file and the remedy.</summary>
    public sealed class FKSConfigException : Exception
    {
        public FKSConfigException(string message) : base(message)
        {
        }
    }

    public sealed class FKSConfig
    {
        public const int SecretBytesMin = 16;
        public const int SecretBytesRemoteMin = 32;

        public string Group = "sim";
        public string Bind = "127.0.0.1";
        public int Port = 8080;
        public int PortFallback = 47740;
        public bool AllowRemote;
        public Dictionary<string, string> Accounts = new Dictionary<string, string>(StringComparer.Ordinal);
        public string DefaultAccount = "Sim101";
        public List<string> Instruments = new List<string>();
        public string Rules;
        public int HbMs = 2000;
        public int ClientLostGraceMs = 10000;
        public string OnClientLost = "cancel_entries";
        public int SettleMs = 5000;
        public int MaxQty = 10;
        public int MaxPosition = 20;
        public int MaxDistanceTicks = 400;
        public int QuoteMsMax = 10000;
        public int RatePerSecond = 5;
        public int RatePerMinute = 60;
        public bool RemoteResume;
        public bool AllowWiden;
        public List<string> DayOnlyAccounts = new List<string>();
        public string SeedUnauthenticated = "sim_only";
        public string SeedEntryType = "limit";
        public byte[] Secret;

        private static readonly HashSet<string> Keys = new HashSet<string>
        {
            "group", "bind", "port", "port_fallback", "allow_remote", "accounts", "default_account", "instruments", "rules", "hb_ms",
            "client_lost_grace_ms", "on_client_lost", "settle_ms", "max_qty", "max_position", "max_distance_ticks", "quote_ms_max",
            "rate_per_second", "rate_per_minute", "remote_resume", "allow_widen", "day_only_accounts", "seed"
        };

        /// <summary>Read `config.json` (optional) and `secret.key` (required) in `folder`. Errors: FKSConfigException.</summary>
        public static FKSConfig Load(string folder)
        {
            string path = Path.Combine(folder, "config.json");
            FKSConfig made = File.Exists(path) ? Parse(ReadText(path), path) : Parse("{}", path);
            made.Secret = LoadSecret(folder, made.AllowRemote);
            return made;
        }

        private static string ReadText(string path)
        {
            try
            {
                byte[] bytes = File.ReadAllBytes(path);
                bool mark = bytes.Length >= 3 && bytes[0] == 0xEF && bytes[1] == 0xBB && bytes[2] == 0xBF;
                return FKSJson.Decode(bytes, mark ? 3 : 0, bytes.Length - (mark ? 3 : 0)); // Notepad writes the mark
            }
            catch (Exception cause)
            {
                throw new FKSConfigException(path + " cannot be read: " + cause.Message);
            }
        }

        /// <summary>Settings from the text of config.json; `path` is named in errors.</summary>
        public static FKSConfig Parse(string text, string path)
        {
            FKSObject found;
            try
            {
                found = FKSJson.ParseObject(text);
            }
            catch (FKSJsonException cause)
            {
                throw new FKSConfigException(path + " is no strict JSON object: " + cause.Message);
            }
            foreach (string key in found.Keys)
            {
                if (!Keys.Contains(key))
                {
                    throw new FKSConfigException(path + ": unknown key " + key + "; remove it or correct its spelling");
                }
            }
            FKSConfig made = new FKSConfig();
            made.Read(found, path);
            return made;
        }

        private void Read(FKSObject m, string path)
        {
            Group = Text(m, "group", Group, path);
            Bind = Text(m, "bind", Bind, path);
            Port = Int(m, "port", Port, 1, 65535, path);
            PortFallback = Int(m, "port_fallback", PortFallback, 1, 65535, path);
            AllowRemote = Flag(m, "allow_remote", false, path);
            DefaultAccount = Text(m, "default_account", DefaultAccount, path);
            Rules = Text(m, "rules", null, path);
            HbMs = Int(m, "hb_ms", HbMs, 2000, 5000, path);
            ClientLostGraceMs = Int(m, "client_lost_grace_ms", ClientLostGraceMs, 0, 3600000, path);
            OnClientLost = OneOf(m, "on_client_lost", OnClientLost, path, "keep", "cancel_entries", "flatten");
            SettleMs = Int(m, "settle_ms", SettleMs, 1000, 60000, path);
            MaxQty = Int(m, "max_qty", MaxQty, 1, 10000, path);
            MaxPosition = Int(m, "max_position", MaxPosition, 1, 100000, path);
            MaxDistanceTicks = Int(m, "max_distance_ticks", MaxDistanceTicks, 1, 1000000, path);
            QuoteMsMax = Int(m, "quote_ms_max", QuoteMsMax, 1000, 3600000, path);
            RatePerSecond = Int(m, "rate_per_second", RatePerSecond, 1, 1000, path);
            RatePerMinute = Int(m, "rate_per_minute", RatePerMinute, 1, 10000, path);
            RemoteResume = Flag(m, "remote_resume", false, path);
            AllowWiden = Flag(m, "allow_widen", false, path);
            Instruments = Texts(m, "instruments", path);
            DayOnlyAccounts = Texts(m, "day_only_accounts", path);
            ReadAccounts(m, path);
            ReadSeed(m, path);
            if (Bind != "127.0.0.1" && !AllowRemote)
            {
                throw new FKSConfigException(path + ": bind is " + Bind + "; only 127.0.0.1 is allowed unless allow_remote is true");
            }
        }

        private void ReadAccounts(FKSObject m, string path)
        {
            if (!m.Has("accounts"))
            {
                Accounts["Sim101"] = "auto";
                return;
            }
            foreach (object item in m.List("accounts") ?? new List<object> { null })
            {
                FKSObject account = item as FKSObject;
                if (account == null || account.Count != 2 || account.Text("name") == null)
                {
                    throw new FKSConfigException(path + ": accounts must be a list of {\"name\": \"Sim101\", \"mode\": \"auto\"}");
                }
                Accounts[account.Text("name")] = OneOf(account, "mode", "off", path, "auto", "relay", "off");
            }
        }

        private void ReadSeed(FKSObject m, string path)
        {
            FKSObject seed = m.Object("seed");
            if (m.Has("seed") && seed == null)
            {
                throw new FKSConfigException(path + ": seed must be an object");
            }
            if (seed == null)
            {
                return;
            }
            foreach (string key in seed.Keys)
            {
                if (key != "unauthenticated" && key != "entry_type")
                {
                    throw new FKSConfigException(path + ": unknown key seed." + key);
                }
            }
            SeedUnauthenticated = OneOf(seed, "unauthenticated", SeedUnauthenticated, path, "sim_only", "off");
            SeedEntryType = OneOf(seed, "entry_type", SeedEntryType, path, "limit", "market");
        }

        private static byte[] LoadSecret(string folder, bool remote)
        {
            string path = Path.Combine(folder, "secret.key");
            if (!File.Exists(path))
            {
                throw new FKSConfigException(path + " is missing; write a random text of 64 hexadecimal digits into it (openssl rand -hex 32)");
            }
            StringBuilder kept = new StringBuilder();
            foreach (char c in ReadText(path))
            {
                if (!char.IsWhiteSpace(c))
                {
                    kept.Append(c);
                }
            }
            byte[] secret = FKSJson.Encode(kept.ToString());
            int least = remote ? SecretBytesRemoteMin : SecretBytesMin;
            if (secret.Length < least)
            {
                throw new FKSConfigException(path + " holds " + secret.Length + " bytes; " + least + " are required" + (remote ? " with allow_remote" : ""));
            }
            return secret;
        }

        private static string Text(FKSObject m, string key, string otherwise, string path)
        {
            if (!m.Has(key))
            {
                return otherwise;
            }
            string found = m.Text(key);
            if (string.IsNullOrEmpty(found))
            {
                throw new FKSConfigException(path + ": " + key + " must be a text");
            }
            return found;
        }

        private static int Int(FKSObject m, string key, int otherwise, int least, int most, string path)
        {
            if (!m.Has(key))
            {
                return otherwise;
            }
            decimal? found = m.Decimal(key);
            if (found == null || found != Math.Floor(found.Value) || found < least || found > most)
            {
                throw new FKSConfigException(path + ": " + key + " must be a whole number from " + least + " to " + most);
            }
            return (int)found.Value;
        }

        private static bool Flag(FKSObject m, string key, bool otherwise, string path)
        {
            if (m.Has(key) && !(m.Get(key) is bool))
            {
                throw new FKSConfigException(path + ": " + key + " must be true or false");
            }
            return m.Flag(key, otherwise);
        }

        private static string OneOf(FKSObject m, string key, string otherwise, string path, params string[] allowed)
        {
            string found = Text(m, key, otherwise, path);
            if (Array.IndexOf(allowed, found) < 0)
            {
                throw new FKSConfigException(path + ": " + key + " must be one of " + string.Join(", ", allowed));
            }
            return found;
        }

        private static List<string> Texts(FKSObject m, string key, string path)
        {
            List<string> made = new List<string>();
            if (!m.Has(key))
            {
                return made;
            }
            List<object> found = m.List(key);
            if (found == null)
            {
                throw new FKSConfigException(path + ": " + key + " must be a list of texts");
            }
            foreach (object item in found)
            {
                if (!(item is string))
                {
                    throw new FKSConfigException(path + ": " + key + " must be a list of texts");
                }
                made.Add((string)item);
            }
            return made;
        }
    }
}
