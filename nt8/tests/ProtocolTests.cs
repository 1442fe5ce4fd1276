using System;
using NinjaTrader.NinjaScript.AddOns;

namespace FKS.Tests
{
    public static class ProtocolTests
    {
        private const string Good = "{\"t\":\"signal\",\"id\":\"a-1_B\",\"account\":\"Sim101\",\"instrument\":\"ES 03-25\",\"action\":\"long\",\"qty\":1,\"type\":\"limit\","
            + "\"price\":4500.25,\"sl_points\":10,\"tp_points\":20,\"created_ms\":1,\"valid_until\":2}";

        private static string CodeOf(string key, string value)
        {
            FKSObject m = FKSJson.ParseObject(Good);
            FKSObject changed = new FKSObject();
            foreach (string k in m.Keys)
            {
                if (k != key)
                {
                    changed.Set(k, m.Get(k));
                }
            }
            if (value != null)
            {
                changed.Set(key, FKSJson.Parse(value));
            }
            FKSRefusal refusal;
            FKSProtocol.ParseSignal(changed, 10, out refusal);
            return refusal == null ? null : refusal.Code;
        }

        public static void AcceptsAGoodSignal()
        {
            FKSRefusal refusal;
            FKSSignal s = FKSProtocol.ParseSignal(FKSJson.ParseObject(Good), 10, out refusal);
            Check.Equal(null, refusal);
            Check.Equal("buy", s.Action);
            Check.Equal("day", s.Tif);
            Check.Equal(4500.25m, s.Price);
            Check.Equal(s.Content(), FKSSignal.FromJson(FKSJson.ParseObject(FKSJson.Write(s.ToJson()))).Content());
        }

        public static void ChecksEveryField()
        {
            Check.Equal("unknown_field", CodeOf("qyt", "5"));
            foreach (string key in new[] { "id", "account", "instrument", "action", "qty", "type", "price", "created_ms", "valid_until" })
            {
                Check.Equal("missing_field", CodeOf(key, null));
            }
            Check.Equal("bad_field", CodeOf("id", "\"a b\""));
            Check.Equal("bad_field", CodeOf("id", "\"a\\n\""));
            Check.Equal("bad_field", CodeOf("id", "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\""));
            Check.Equal("bad_field", CodeOf("id", "7"));
            Check.Equal("bad_field", CodeOf("qty", "0"));
            Check.Equal("bad_field", CodeOf("qty", "1.5"));
            Check.Equal("bad_field", CodeOf("qty", "\"1\""));
            Check.Equal("qty_limit", CodeOf("qty", "11"));
            Check.Equal("bad_field", CodeOf("action", "\"BUY\""));
            Check.Equal("bad_field", CodeOf("type", "\"mit\""));
            Check.Equal("bad_field", CodeOf("tif", "\"gtd\""));
            Check.Equal("bad_field", CodeOf("instrument", "\"ES 13-25\""));
            Check.Equal("bad_field", CodeOf("stop_price", "4500"));
            Check.Equal("bad_field", CodeOf("sl_price", "4490"));
            Check.Equal("bad_bracket", CodeOf("sl_points", "0"));
            Check.Equal("bad_bracket", CodeOf("tp_points", "-1"));
            Check.Equal(null, CodeOf("note", "null"));
            Check.Equal(null, CodeOf("sl_points", null));
        }

        public static void FinalAndTemporaryCodesDiffer()
        {
            Check.Equal(true, new FKSRefusal("expired", "").Final);
            foreach (string code in new[] { "not_ready", "replaying", "not_connected", "price_feed_lost", "flattening", "rate_limited", "not_control", "halted", "no_quote" })
            {
                Check.Equal(false, new FKSRefusal(code, "").Final);
            }
        }

        public static void OrderNamesAreReadBack()
        {
            Check.Equal("FKS:b1:S", FKSProtocol.OrderName("b1", "S", 1));
            Check.Equal("FKS:b1:T12", FKSProtocol.OrderName("b1", "T", 12));
            FKSName found = FKSProtocol.ParseName("FKS:b1:S12");
            Check.Equal("b1", found.Id);
            Check.Equal("S", found.Role);
            Check.Equal(12, found.Lot);
            foreach (string name in new[] { null, "", "Entry", "FKS:b1:S1", "FKS:b1:S0", "FKS:b1:X", "FKS::E", "FKS:b1:E\n", "xFKS:b1:E" })
            {
                Check.Equal(null, FKSProtocol.ParseName(name));
            }
            Check.True(FKSProtocol.OrderName(new string('a', 32), "S", 99).Length <= 50, "an order name has more than 50 characters");
        }

        public static void MacsMatchTheTestVector()
        {
            byte[] secret = FKSJson.Encode("correct-horse-battery-staple-0001");
            string challenge = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
            string hello = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";
            Check.Equal("6dff759fe14e8a81712b1a6008c2aeb2f48dabdd542b578d997fd4e39010cbb9",
                FKSProtocol.ClientMac(secret, challenge, hello, "3f0c9c9e5f0b4c3fa0a1d2e3f4a5b6c7", "sim"));
            Check.Equal("e08a49b74f0d5cf5721976e00a94440c378eb31088c99c8df7c83edb5134b274",
                FKSProtocol.BridgeMac(secret, challenge, hello, "0b9d8c7e6f5a4b3c2d1e0f9a8b7c6d5e", "sim"));
            Check.Equal(true, FKSProtocol.SameText("ab", "ab"));
            Check.Equal(false, FKSProtocol.SameText("ab", "ac"));
            Check.Equal(false, FKSProtocol.SameText("ab", null));
        }

        private static FKSLineMac MacOf(string end)
        {
            FKSObject hello = new FKSObject().Set("nonce", FKSProtocol.Marked("ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100"))
                .Set("instance", "3f0c9c9e5f0b4c3fa0a1d2e3f4a5b6c7").Set("group", "sim").Set("role", "control");
            return FKSProtocol.LineMac(FKSJson.Encode("correct-horse-battery-staple-0001"), end,
                FKSProtocol.Marked("00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"), hello);
        }

        private static string Text(byte[] line)
        {
            return line == null ? null : System.Text.Encoding.ASCII.GetString(line);
        }

        public static void LineMacsMatchTheTestVector()
        {
            byte[] line = FKSJson.Encode("{\"t\":\"ping\",\"n\":1,\"t_ms\":0}\n");
            FKSLineMac client = MacOf("client");
            Check.Equal("557ab85fe74b25635764f786cf117ae8402c44ba53d39847f9789c53b3c0c5f8 " + Text(line), Text(client.Seal(line)));
            Check.Equal("ca5d29ff9ee068c550b78e80f2b1c2b5fd1833b911a353f586ed54ad48642124 " + Text(line), Text(client.Seal(line)));
            Check.Equal("ba4cfe7d4f838d2937caa9cb062cfa3332bfb77bf7318eb0ec39880ade880af2 " + Text(line), Text(MacOf("bridge").Seal(line)));
        }

        public static void ALineThatWasTamperedWithDoesNotOpen()
        {
            FKSLineMac sending = MacOf("client");
            string[] lines = new string[3];
            for (int i = 0; i < lines.Length; i++)
            {
                lines[i] = Text(sending.Seal(FKSJson.Encode("{\"n\":" + i + "}\n"))).TrimEnd('\n');
            }
            FKSLineMac reading = MacOf("client");
            Check.Equal("{\"n\":0}", Text(reading.Open(FKSJson.Encode(lines[0]))));
            Check.Equal("{\"n\":1}", Text(reading.Open(FKSJson.Encode(lines[1]))));
            Check.Equal(null, Text(reading.Open(FKSJson.Encode(lines[1]))));
            Check.Equal(null, Text(MacOf("client").Open(FKSJson.Encode(lines[1]))));
            Check.Equal(null, Text(MacOf("bridge").Open(FKSJson.Encode(lines[0]))));
            foreach (string wrong in new[] { "", "{}", "{\"n\":0}", lines[0].Replace("n", "m"), lines[0].Substring(0, 65), lines[0].Substring(0, 64), lines[0] + " " })
            {
                Check.Equal(null, Text(MacOf("client").Open(FKSJson.Encode(wrong))));
            }
        }

        public static void PricesAreRoundedSoThatRiskNeverGrows()
        {
            Check.Equal(4500.00m, FKSProtocol.EntryPrice(4500.13m, 0.25m, true, false));
            Check.Equal(4500.25m, FKSProtocol.EntryPrice(4500.13m, 0.25m, false, false));
            Check.Equal(4500.25m, FKSProtocol.EntryPrice(4500.13m, 0.25m, true, true));
            Check.Equal(4500.00m, FKSProtocol.EntryPrice(4500.13m, 0.25m, false, true));
            Check.Equal(4490.25m, FKSProtocol.ExitPrice(4490.13m, 0.25m, true, true));
            Check.Equal(4520.00m, FKSProtocol.ExitPrice(4520.13m, 0.25m, true, false));
            Check.Equal(4510.00m, FKSProtocol.ExitPrice(4510.13m, 0.25m, false, true));
            Check.Equal(4480.25m, FKSProtocol.ExitPrice(4480.13m, 0.25m, false, false));
            Check.Equal(117.03125m, FKSProtocol.RoundToTick(117.03125m, 0.015625m, true));
            Check.Equal(2000.1m, FKSProtocol.RoundToTick(2000.1m, 0.1m, true));
            Check.Equal(1.08505m, FKSProtocol.RoundToTick(1.08505m, 0.00005m, false));
        }

        public static void SeedFormBecomesASignal()
        {
            FKSObject seed = FKSJson.ParseObject("{\"action\":\"short\",\"instrument\":\"ES 03-25\",\"price\":4500.25,\"tp_points\":20,\"sl_points\":10}");
            string id = FKSProtocol.SeedId(seed, 1738594800000);
            Check.Equal(true, FKSProtocol.IsId(id));
            Check.Equal(id, FKSProtocol.SeedId(FKSJson.ParseObject("{\"sl_points\":10.0,\"action\":\"short\",\"instrument\":\"ES 03-25\",\"price\":4500.250,\"tp_points\":20}"), 1738594800999));
            FKSRefusal refusal;
            FKSSignal s = FKSProtocol.ParseSignal(FKSProtocol.FromSeed(seed, "Sim101", "limit", id, 1738594800000, out refusal), 10, out refusal);
            Check.Equal(null, refusal);
            Check.Equal("sell", s.Action);
            Check.Equal(1738594830000L, s.ValidUntil);
            FKSProtocol.FromSeed(FKSJson.ParseObject("{\"action\":\"buy\",\"instrumnet\":\"ES 03-25\"}"), "Sim101", "limit", id, 1, out refusal);
            Check.Equal("unknown_field", refusal.Code);
        }

        public static void MisspeltKeysOfRequestsThatTradeAreRefused()
        {
            Check.Equal("unknown_field", FKSProtocol.CheckRequest("flatten", FKSJson.ParseObject("{\"t\":\"flatten\",\"rid\":\"r\",\"account\":\"a\",\"instrument\":\"all\",\"reason\":\"x\"}")).Code);
            Check.Equal("unknown_field", FKSProtocol.CheckRequest("kill", FKSJson.ParseObject("{\"t\":\"kill\",\"rid\":\"r\",\"reason\":\"x\",\"y\":1}")).Code);
            Check.Equal(null, FKSProtocol.CheckRequest("cancel", FKSJson.ParseObject("{\"t\":\"cancel\",\"rid\":\"r\",\"id\":\"x\",\"y\":1}")));
            Check.Equal("bad_field", FKSProtocol.CheckRequest("flatten", FKSJson.ParseObject("{\"rid\":\"r\",\"account\":\"a\",\"instruments\":\"ES 03-25\",\"reason\":\"x\"}")).Code);
            Check.Equal("missing_field", FKSProtocol.CheckRequest("modify", FKSJson.ParseObject("{\"rid\":\"r\",\"id\":\"x\"}")).Code);
        }

        public static void ContractsRollBeforeTheyExpire()
        {
            FKSContract es = FKSContracts.Find("ES");
            Check.Equal(new DateTime(2025, 3, 17), FKSContracts.NoEntriesFrom(es, 2025, 3));
            Check.Equal("ES 03-25", FKSContracts.Front(es, new DateTime(2025, 2, 3)));
            Check.Equal("ES 06-25", FKSContracts.Front(es, new DateTime(2025, 3, 17)));
            Check.Equal(new DateTime(2025, 2, 14), FKSContracts.NoEntriesFrom(FKSContracts.Find("CL"), 2025, 3)); // 17 February is Presidents' Day
            Check.Equal("GC 04-25", FKSContracts.Front(FKSContracts.Find("GC"), new DateTime(2025, 2, 3)));
            Check.Equal(null, FKSContracts.Find("ESX"));
        }
    }
}
