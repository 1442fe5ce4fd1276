using System;
using System.Collections.Generic;
using NinjaTrader.NinjaScript.AddOns;

namespace FKS.Tests
{
    public static class JsonTests
    {
        private static void Refused(string text)
        {
            try
            {
                FKSJson.Parse(text);
            }
            catch (FKSJsonException)
            {
                return;
            }
            throw new Failure("accepted: " + text);
        }

        public static void ReadsEveryKindOfValue()
        {
            FKSObject m = FKSJson.ParseObject(" {\"a\":[1,-2.50,true,false,null,\"x\\u00e9\\n\"],\"b\":{}}\r\n");
            List<object> found = m.List("a");
            Check.Equal(1m, found[0]);
            Check.Equal(-2.50m, found[1]);
            Check.Equal(true, found[2]);
            Check.Equal(false, found[3]);
            Check.Equal(null, found[4]);
            Check.Equal("x\u00e9\n", found[5]);
            Check.Equal(0, m.Object("b").Count);
        }

        public static void RefusesWhatIsNotStrict()
        {
            foreach (string text in new[]
            {
                "", " ", "{", "{\"a\":1,}", "[1,]", "{\"a\":1 \"b\":2}", "{a:1}", "{'a':1}", "{\"a\":1,\"a\":2}", "NaN", "Infinity", "-", "01", "1.", ".5", "+1", "1e5",
                "/* x */ 1", "1 2", "\"\\ud800\"", "\"\\udc00\\ud800\"", "\"\\x\"", "\"\\u12g4\"", "\"a\nb\"", "\"a", "tru", "True", "\uFEFF1", "[[[[[[[[[1]]]]]]]]]"
            })
            {
                Refused(text);
            }
        }

        public static void LimitsDigitsAndDepth()
        {
            FKSJson.Parse("[[[[[[[[1]]]]]]]]");
            Check.Equal(123456789012345m, FKSJson.Parse("123456789012345"));
            Check.Equal(0.0000000001m, FKSJson.Parse("0.0000000001"));
            Refused("1234567890123456");
            Refused("0.00000000001");
        }

        public static void RefusesMalformedUtf8()
        {
            foreach (byte[] bytes in new[] { new byte[] { 0xff, 0xfe }, new byte[] { 0xc0, 0x80 }, new byte[] { 0xed, 0xa0, 0x80 }, new byte[] { 0xe2, 0x82 } })
            {
                byte[] found = bytes;
                Check.Throws<FKSJsonException>(delegate { FKSJson.Decode(found, 0, found.Length); });
            }
        }

        public static void WritesInvariantNumbersAndEscapes()
        {
            FKSObject m = new FKSObject().Set("p", 4500.2500m).Set("d", 0.1).Set("n", null).Set("q", 12).Set("t", "a\"\\\n\u00e9\ud83d\ude00").Set("l", new List<object> { true, 1m })
                .Set("bad", double.NaN);
            string text = FKSJson.Write(m);
            Check.Equal("{\"p\":4500.25,\"d\":0.1,\"n\":null,\"q\":12,\"t\":\"a\\\"\\\\\\u000a\u00e9\ud83d\ude00\",\"l\":[true,1],\"bad\":null}", text);
            Check.Equal(text, FKSJson.Write(FKSJson.Parse(text)));
        }

        public static void LoneSurrogateIsReplacedWhenWritten()
        {
            Check.Equal("\"\uFFFD\"", FKSJson.Write("\ud800"));
        }

        public static void CanonicalTextIgnoresOrderAndTrailingZeros()
        {
            Check.Equal(FKSJson.Canonical(FKSJson.ParseObject("{\"b\":1.50,\"a\":2}")), FKSJson.Canonical(FKSJson.ParseObject("{\"a\":2.0,\"b\":1.5}")));
        }
    }
}
