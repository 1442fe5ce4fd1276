// Runs the public methods of the test classes named on the command line; prints one line per failure, exit code 1 on any.
// All threads have the German culture, in which a decimal comma would break prices.
using System;
using System.Globalization;
using System.IO;
using System.Reflection;
using System.Threading;

namespace FKS.Tests
{
    public sealed class Failure : Exception
    {
        public Failure(string message) : base(message)
        {
        }
    }

    public static class Check
    {
        public static void Equal(object expected, object actual)
        {
            if (!object.Equals(expected, actual))
            {
                throw new Failure("expected " + Show(expected) + ", got " + Show(actual));
            }
        }

        public static void True(bool condition, string rule)
        {
            if (!condition)
            {
                throw new Failure(rule);
            }
        }

        public static T Throws<T>(Action action) where T : Exception
        {
            try
            {
                action();
            }
            catch (T found)
            {
                return found;
            }
            throw new Failure("no " + typeof(T).Name);
        }

        private static string Show(object value)
        {
            return value == null ? "null" : "<" + Convert.ToString(value, CultureInfo.InvariantCulture) + ">";
        }
    }

    public static class Folder
    {
        public static string New()
        {
            string path = Path.Combine(Path.GetTempPath(), "fks-nt8-" + Guid.NewGuid().ToString("N"));
            Directory.CreateDirectory(path);
            return path;
        }
    }

    public static class Program
    {
        public static int Main(string[] names)
        {
            CultureInfo.DefaultThreadCurrentCulture = new CultureInfo("de-DE");
            Thread.CurrentThread.CurrentCulture = new CultureInfo("de-DE");
            int failed = 0;
            int run = 0;
            foreach (string name in names)
            {
                Type type = Type.GetType("FKS.Tests." + name, true);
                foreach (MethodInfo method in type.GetMethods(BindingFlags.Public | BindingFlags.Static | BindingFlags.DeclaredOnly))
                {
                    run++;
                    try
                    {
                        method.Invoke(null, null);
                    }
                    catch (TargetInvocationException cause)
                    {
                        failed++;
                        Console.WriteLine("FAILED " + name + "." + method.Name + ": " + (cause.InnerException is Failure ? cause.InnerException.Message : cause.InnerException.ToString()));
                    }
                }
            }
            Console.WriteLine(run.ToString(CultureInfo.InvariantCulture) + " tests, " + failed.ToString(CultureInfo.InvariantCulture) + " failed");
            return failed == 0 && run > 0 ? 0 : 1;
        }
    }
}
