// Strict JSON (RFC 8259) reader and writer with decimal numbers. C# 5, no reflection, no NinjaTrader types.
// NinjaTrader guarantees no reference to a JSON library in scripts, and a lenient reader would hide a misspelt order.
using System;
using System.Collections.Generic;
using System.Globalization;
using System.Text;

namespace NinjaTrader.NinjaScript.AddOns
{
    /// <summary>The text is not one strict JSON value. The message names the rule and the position.</summary>
    public sealed class FKSJsonException : Exception
    {
        public FKSJsonException(string message) : base(message)
        {
        }
    }

    /// <summary>A JSON object that keeps the order of its keys. Values: FKSObject, List of object, string, decimal, bool, null.</summary>
    public sealed class FKSObject
    {
        private readonly List<string> keys = new List<string>();
        private readonly Dictionary<string, object> values = new Dictionary<string, object>(StringComparer.Ordinal);

        public IList<string> Keys
        {
            get { return keys; }
        }

        public int Count
        {
            get { return keys.Count; }
        }

        public bool Has(string key)
        {
            return values.ContainsKey(key);
        }

        /// <summary>The value, or null where the key is absent or its value is null.</summary>
        public object Get(string key)
        {
            object found;
            return values.TryGetValue(key, out found) ? found : null;
        }

        public string Text(string key)
        {
            return Get(key) as string;
        }

        public FKSObject Object(string key)
        {
            return Get(key) as FKSObject;
        }

        public List<object> List(string key)
        {
            return Get(key) as List<object>;
        }

        public long Long(string key, long otherwise)
        {
            object found = Get(key);
            return found is decimal ? (long)(decimal)found : otherwise;
        }

        public int Int(string key, int otherwise)
        {
            return (int)Long(key, otherwise);
        }

        public decimal? Decimal(string key)
        {
            object found = Get(key);
            return found is decimal ? (decimal?)(decimal)found : null;
        }

        public bool Flag(string key, bool otherwise)
        {
            object found = Get(key);
            return found is bool ? (bool)found : otherwise;
        }

        /// <summary>Set a value; int, long and double become decimal. Returns this object, for chains.</summary>
        public FKSObject Set(string key, object value)
        {
            if (!values.ContainsKey(key))
            {
                keys.Add(key);
            }
            values[key] = Normal(value);
            return this;
        }

        /// <summary>Set a value that is not null.</summary>
        public FKSObject SetIf(string key, object value)
        {
            return value == null ? this : Set(key, value);
        }

        public FKSObject Copy()
        {
            FKSObject made = new FKSObject();
            foreach (string key in keys)
            {
                made.Set(key, values[key]);
            }
            return made;
        }

        private static object Normal(object value)
        {
            if (value is int)
            {
                return (decimal)(int)value;
            }
            if (value is long)
            {
                return (decimal)(long)value;
            }
            if (value is double)
            {
                return FKSJson.FromDouble((double)value);
            }
            return value;
        }
    }

    public static class FKSJson
    {
        public const int DepthMax = 8;
        public const int DigitsMax = 15;
        public const int DecimalsMax = 10;

        private static readonly UTF8Encoding StrictUtf8 = new UTF8Encoding(false, true);

        /// <summary>Decode UTF-8 and refuse malformed bytes.</summary>
        public static string Decode(byte[] bytes, int offset, int count)
        {
            try
            {
                return StrictUtf8.GetString(bytes, offset, count);
            }
            catch (ArgumentException)
            {
                throw new FKSJsonException("malformed UTF-8");
            }
        }

        public static byte[] Encode(string text)
        {
            return StrictUtf8.GetBytes(text);
        }

        public static object Parse(string text)
        {
            Reader reader = new Reader(text);
            reader.Space();
            object value = reader.Value(0);
            reader.Space();
            reader.End();
            return value;
        }

        /// <summary>Parse a text that must be one JSON object.</summary>
        public static FKSObject ParseObject(string text)
        {
            FKSObject found = Parse(text) as FKSObject;
            if (found == null)
            {
                throw new FKSJsonException("the value is not an object");
            }
            return found;
        }

        public static string Write(object value)
        {
            StringBuilder text = new StringBuilder();
            Write(text, value);
            return text.ToString();
        }

        /// <summary>JSON with sorted keys and normalised numbers: equal content gives equal text.</summary>
        public static string Canonical(FKSObject value)
        {
            List<string> keys = new List<string>(value.Keys);
            keys.Sort(StringComparer.Ordinal);
            FKSObject sorted = new FKSObject();
            foreach (string key in keys)
            {
                sorted.Set(key, value.Get(key));
            }
            return Write(sorted);
        }

        /// <summary>A platform double as decimal; null where it is not a number or too large for a price.</summary>
        public static object FromDouble(double value)
        {
            if (double.IsNaN(value) || double.IsInfinity(value) || Math.Abs(value) > 1e14)
            {
                return null;
            }
            return (decimal)value;
        }

        /// <summary>The number within what every reader of the protocol takes: an average price has endless decimals.</summary>
        public static string Number(decimal value)
        {
            int digits = 1;
            for (decimal whole = Math.Truncate(Math.Abs(value)); whole >= 10; whole = Math.Truncate(whole / 10))
            {
                digits++;
            }
            value = Math.Round(value, Math.Max(0, Math.Min(DecimalsMax, DigitsMax - digits)));
            // the division removes trailing zeros: 4500.00m -> "4500"
            return (value / 1.0000000000000000000000000000m).ToString(CultureInfo.InvariantCulture);
        }

        private static void Write(StringBuilder text, object value)
        {
            if (value == null)
            {
                text.Append("null");
            }
            else if (value is string)
            {
                WriteText(text, (string)value);
            }
            else if (value is bool)
            {
                text.Append((bool)value ? "true" : "false");
            }
            else if (value is decimal)
            {
                text.Append(Number((decimal)value));
            }
            else if (value is int)
            {
                text.Append(((int)value).ToString(CultureInfo.InvariantCulture));
            }
            else if (value is long)
            {
                text.Append(((long)value).ToString(CultureInfo.InvariantCulture));
            }
            else if (value is double)
            {
                Write(text, FromDouble((double)value));
            }
            else if (value is FKSObject)
            {
                FKSObject found = (FKSObject)value;
                text.Append('{');
                for (int i = 0; i < found.Keys.Count; i++)
                {
                    if (i > 0)
                    {
                        text.Append(',');
                    }
                    WriteText(text, found.Keys[i]);
                    text.Append(':');
                    Write(text, found.Get(found.Keys[i]));
                }
                text.Append('}');
            }
            else if (value is System.Collections.IEnumerable)
            {
                text.Append('[');
                bool first = true;
                foreach (object item in (System.Collections.IEnumerable)value)
                {
                    if (!first)
                    {
                        text.Append(',');
                    }
                    first = false;
                    Write(text, item);
                }
                text.Append(']');
            }
            else
            {
                throw new ArgumentException("FKSJson cannot write " + value.GetType().Name);
            }
        }

        private static void WriteText(StringBuilder text, string value)
        {
            text.Append('"');
            for (int i = 0; i < value.Length; i++)
            {
                char c = value[i];
                if (c == '"' || c == '\\')
                {
                    text.Append('\\').Append(c);
                }
                else if (c < ' ')
                {
                    text.Append("\\u").Append(((int)c).ToString("x4", CultureInfo.InvariantCulture));
                }
                else if (char.IsHighSurrogate(c) && i + 1 < value.Length && char.IsLowSurrogate(value[i + 1]))
                {
                    text.Append(c).Append(value[++i]);
                }
                else
                {
                    text.Append(char.IsSurrogate(c) ? '\uFFFD' : c); // a lone surrogate has no UTF-8 form
                }
            }
            text.Append('"');
        }

        private sealed class Reader
        {
            private readonly string text;
            private int at;

            public Reader(string text)
            {
                this.text = text;
            }

            public void Space()
            {
                while (at < text.Length && (text[at] == ' ' || text[at] == '\t' || text[at] == '\r' || text[at] == '\n'))
                {
                    at++;
                }
            }

            public void End()
            {
                if (at != text.Length)
                {
                    throw Fault("text after the value");
                }
            }

            public object Value(int depth)
            {
                if (at >= text.Length)
                {
                    throw Fault("the text ends early");
                }
                char c = text[at];
                if (c == '{')
                {
                    return Object(depth + 1);
                }
                if (c == '[')
                {
                    return Array(depth + 1);
                }
                if (c == '"')
                {
                    return Text();
                }
                if (c == '-' || (c >= '0' && c <= '9'))
                {
                    return Number();
                }
                if (Literal("true"))
                {
                    return true;
                }
                if (Literal("false"))
                {
                    return false;
                }
                if (Literal("null"))
                {
                    return null;
                }
                throw Fault("unexpected character");
            }

            private FKSObject Object(int depth)
            {
                Deep(depth);
                FKSObject made = new FKSObject();
                at++;
                Space();
                if (Taken('}'))
                {
                    return made;
                }
                while (true)
                {
                    Space();
                    if (at >= text.Length || text[at] != '"')
                    {
                        throw Fault("a key is missing");
                    }
                    string key = Text();
                    if (made.Has(key))
                    {
                        throw Fault("duplicate key");
                    }
                    Space();
                    if (!Taken(':'))
                    {
                        throw Fault("a colon is missing");
                    }
                    Space();
                    made.Set(key, Value(depth));
                    Space();
                    if (Taken('}'))
                    {
                        return made;
                    }
                    if (!Taken(','))
                    {
                        throw Fault("a comma is missing");
                    }
                }
            }

            private List<object> Array(int depth)
            {
                Deep(depth);
                List<object> made = new List<object>();
                at++;
                Space();
                if (Taken(']'))
                {
                    return made;
                }
                while (true)
                {
                    Space();
                    made.Add(Value(depth));
                    Space();
                    if (Taken(']'))
                    {
                        return made;
                    }
                    if (!Taken(','))
                    {
                        throw Fault("a comma is missing");
                    }
                }
            }

            private string Text()
            {
                StringBuilder made = new StringBuilder();
                at++;
                while (true)
                {
                    if (at >= text.Length)
                    {
                        throw Fault("the text ends inside a string");
                    }
                    char c = text[at++];
                    if (c == '"')
                    {
                        break;
                    }
                    if (c < ' ')
                    {
                        throw Fault("control character in a string");
                    }
                    made.Append(c == '\\' ? Escape() : c);
                }
                for (int i = 0; i < made.Length; i++)
                {
                    bool pair = char.IsHighSurrogate(made[i]) && i + 1 < made.Length && char.IsLowSurrogate(made[i + 1]);
                    if (pair)
                    {
                        i++;
                    }
                    else if (char.IsSurrogate(made[i]))
                    {
                        throw Fault("lone surrogate");
                    }
                }
                return made.ToString();
            }

            private char Escape()
            {
                char c = at < text.Length ? text[at++] : '\0';
                switch (c)
                {
                    case '"':
                    case '\\':
                    case '/':
                        return c;
                    case 'b':
                        return '\b';
                    case 'f':
                        return '\f';
                    case 'n':
                        return '\n';
                    case 'r':
                        return '\r';
                    case 't':
                        return '\t';
                    case 'u':
                        int code = 0;
                        for (int i = 0; i < 4; i++)
                        {
                            int digit = at < text.Length ? "0123456789abcdef".IndexOf(char.ToLowerInvariant(text[at++])) : -1;
                            if (digit < 0)
                            {
                                throw Fault("bad \\u escape");
                            }
                            code = code * 16 + digit;
                        }
                        return (char)code;
                    default:
                        throw Fault("bad escape");
                }
            }

            private decimal Number()
            {
                int start = at;
                if (text[at] == '-')
                {
                    at++;
                }
                int whole = Digits();
                if (whole == 0 || (whole > 1 && text[at - whole] == '0'))
                {
                    throw Fault("bad number");
                }
                if (at < text.Length && text[at] == '.')
                {
                    at++;
                    int decimals = Digits();
                    if (decimals == 0)
                    {
                        throw Fault("bad number");
                    }
                    if (decimals > DecimalsMax)
                    {
                        throw Fault("number with more than 10 decimals");
                    }
                }
                if (at < text.Length && (text[at] == 'e' || text[at] == 'E'))
                {
                    throw Fault("number with an exponent");
                }
                string found = text.Substring(start, at - start);
                int significant = found.Replace("-", "").Replace(".", "").TrimStart('0').Length;
                if (significant > DigitsMax)
                {
                    throw Fault("number with more than 15 digits");
                }
                return decimal.Parse(found, NumberStyles.AllowLeadingSign | NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture);
            }

            private int Digits()
            {
                int start = at;
                while (at < text.Length && text[at] >= '0' && text[at] <= '9')
                {
                    at++;
                }
                return at - start;
            }

            private bool Taken(char c)
            {
                if (at < text.Length && text[at] == c)
                {
                    at++;
                    return true;
                }
                return false;
            }

            private bool Literal(string found)
            {
                if (string.CompareOrdinal(text, at, found, 0, found.Length) == 0)
                {
                    at += found.Length;
                    return true;
                }
                return false;
            }

            private void Deep(int depth)
            {
                if (depth > DepthMax)
                {
                    throw Fault("nesting over 8 levels");
                }
            }

            private FKSJsonException Fault(string rule)
            {
                return new FKSJsonException(rule + " at character " + at.ToString(CultureInfo.InvariantCulture));
            }
        }
    }
}
