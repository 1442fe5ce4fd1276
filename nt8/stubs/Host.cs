// Loads the AddOn with the simulated platform and lets a test drive both: one JSON command a line on the standard input,
// one JSON answer a line on the standard output. The broker's state is kept in a file and outlives a killed process.
using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Threading;
using NinjaTrader.Cbi;
using NinjaTrader.Core;
using NinjaTrader.Data;
using NinjaTrader.NinjaScript;
using NinjaTrader.NinjaScript.AddOns;

namespace FKS.Host
{
    public sealed class SimClock : FKSClock
    {
        public override long NowMs()
        {
            return Sim.NowMs;
        }

        public override long TickMs()
        {
            long now = Sim.NowMs;
            Sim.TakeLate();
            return now;
        }
    }

    /// <summary>The clock of this machine.</summary>
    public sealed class LiveClock : FKSClock
    {
        public override long TickMs()
        {
            long now = base.TickMs();
            Sim.TakeLate();
            return now;
        }
    }

    /// <summary>The AddOn with the virtual clock, points that end the process, and a way to wait for its worker.</summary>
    public sealed class HostedBridge : FKSBridge
    {
        public static volatile string CrashAt;
        /// <summary>Draws whether the process ends at a point that was reached; null where it never does.</summary>
        public static volatile Func<bool> CrashDrawn;

        protected override FKSClock MakeClock()
        {
            return Sim.RealClock ? (FKSClock)new LiveClock() : new SimClock();
        }

        public override void Reached(string point)
        {
            Func<bool> drawn = CrashDrawn;
            if (point == "journal_write")
            {
                Thread.Sleep(Sim.Switches.Contains("disk_slow") ? 200 : 0);
                if (Sim.Switches.Contains("disk_full"))
                {
                    throw new IOException("no space left on the device");
                }
                return;
            }
            if (point == CrashAt || (drawn != null && drawn()))
            {
                Process.GetCurrentProcess().Kill(); // not an exception: nothing is flushed or closed
                Thread.Sleep(Timeout.Infinite);
            }
        }

        /// <summary>Wait until the worker has done all that was queued, twice, because its actions queue more.</summary>
        public bool Settle()
        {
            return Ask(TickNow) && Ask(TickNow) && Ask(delegate { });
        }

        public bool Ask(Action action)
        {
            using (ManualResetEventSlim done = new ManualResetEventSlim())
            {
                Post(delegate
                {
                    try
                    {
                        action();
                    }
                    finally
                    {
                        done.Set();
                    }
                });
                return done.Wait(5000);
            }
        }

        public string Control()
        {
            return ControlState();
        }
    }

    public static class Program
    {
        private static string statePath;
        private static LiveBroker broker;
        private static HostedBridge bridge;
        private static Connection connection;
        private static readonly List<Action> pending = new List<Action>();
        private static readonly Dictionary<string, FKSObject> scripts = new Dictionary<string, FKSObject>();
        private static readonly Dictionary<string, int> rejects = new Dictionary<string, int>();
        private static readonly Dictionary<string, Execution> executions = new Dictionary<string, Execution>();
        private static readonly object saveGate = new object();

        public static int Main(string[] arguments)
        {
            CultureInfo.DefaultThreadCurrentCulture = new CultureInfo("de-DE");
            Thread.CurrentThread.CurrentCulture = new CultureInfo("de-DE");
            Sim.InsideSubmit = InsideSubmit;
            string line;
            while ((line = Console.In.ReadLine()) != null)
            {
                FKSObject answer;
                try
                {
                    FKSObject command = FKSJson.ParseObject(line);
                    RunPending();
                    answer = Run(command.Text("do"), command) ?? new FKSObject();
                    bool settled = bridge == null || FKSBridge.Current != bridge || bridge.Settle();
                    answer.Set("ok", settled);
                    if (!settled)
                    {
                        answer.Set("error", "the worker did not answer within 5 s");
                    }
                }
                catch (Exception cause)
                {
                    answer = new FKSObject().Set("ok", false).Set("error", cause.ToString());
                }
                Console.Out.WriteLine(FKSJson.Write(answer));
                Console.Out.Flush();
            }
            return 0;
        }

        private static void RunPending()
        {
            Action[] due;
            lock (pending)
            {
                due = pending.ToArray();
                pending.Clear();
            }
            foreach (Action action in due)
            {
                action();
            }
        }

        private static FKSObject Run(string name, FKSObject c)
        {
            switch (name)
            {
                case "init":
                    Init(c);
                    return null;
                case "activate":
                    bridge = Activate();
                    return new FKSObject().Set("listening", WaitCurrent(c.Long("wait_ms", 10000)));
                case "terminate":
                    bridge.Enter(State.Terminated);
                    bridge = null;
                    return null;
                case "recompile":
                    HostedBridge old = bridge;
                    bridge = Activate();
                    Thread.Sleep(100); // the new instance is refused the folder and the port meanwhile
                    old.Enter(State.Terminated);
                    return new FKSObject().Set("listening", WaitCurrent(10000));
                case "calm":
                    HostedBridge.CrashDrawn = null;
                    broker.IsCalm = true;
                    return null;
                case "cycle":
                    return Cycle(c.Int("count", 1));
                case "advance":
                    Sim.NowMs += c.Long("ms", 0);
                    return null;
                case "crash_at":
                    HostedBridge.CrashAt = c.Text("point");
                    return null;
                case "scripts":
                    return Scripts(c);
                case "switch":
                    Switch(c.Text("name"), c.Flag("on", true));
                    return null;
                case "orders_unnamed":
                    Account sim = Sim.AccountOf("Sim101");
                    lock (sim.Orders)
                    {
                        foreach (Order order in sim.Orders)
                        {
                            order.Name = "";
                        }
                    }
                    Sim.Save(null);
                    return null;
                case "exec_change":
                    Sim.Raise(executions[c.Text("exec")], Parse<Operation>(c.Text("op")));
                    return null;
                case "value":
                    Sim.AccountOf(c.Text("name") ?? "Sim101").Set(Parse<AccountItem>(c.Text("item")), Double(c, "value"));
                    return null;
                case "report":
                    return Report(c.Text("id"));
                default:
                    Platform(name, c);
                    return null;
            }
        }

        private static void Switch(string name, bool on)
        {
            if (on)
            {
                Sim.Switches.Add(name);
            }
            else
            {
                Sim.Switches.Remove(name);
            }
        }

        private static HostedBridge Activate()
        {
            HostedBridge made = new HostedBridge();
            made.Enter(State.SetDefaults);
            made.Enter(State.Configure);
            made.Enter(State.Active);
            return made;
        }

        private static bool WaitCurrent(long most)
        {
            Stopwatch watch = Stopwatch.StartNew();
            while (FKSBridge.Current != bridge && watch.ElapsedMilliseconds < most)
            {
                Thread.Sleep(2);
            }
            return FKSBridge.Current == bridge;
        }

        /// <summary>Load and unload so many instances, with copies that only see SetDefaults and Terminated between them.</summary>
        private static FKSObject Cycle(int count)
        {
            for (int i = 0; i < count; i++)
            {
                HostedBridge copy = new HostedBridge();
                copy.Enter(State.SetDefaults);
                copy.Enter(State.Terminated);
                bridge = Activate();
                if (!WaitCurrent(10000))
                {
                    throw new InvalidOperationException("instance " + i.ToString(CultureInfo.InvariantCulture) + " did not start");
                }
                bridge.Enter(State.Terminated);
                bridge = null;
            }
            return null;
        }

        /// <summary>Run the three indicators and the strategy over historical and real-time bars, then end them.</summary>
        private static FKSObject Scripts(FKSObject c)
        {
            NinjaScriptBase[] all =
            {
                new NinjaTrader.NinjaScript.Indicators.FKSSignalIndicator(), new NinjaTrader.NinjaScript.Indicators.FKSStatusIndicator(),
                new NinjaTrader.NinjaScript.Indicators.FKSSignalRelay(), new NinjaTrader.NinjaScript.Strategies.FKSAutomatedStrategy()
            };
            ((NinjaTrader.NinjaScript.Strategies.Strategy)all[3]).Account = Sim.AccountOf("Sim101");
            bool removed = true;
            foreach (NinjaScriptBase script in all)
            {
                script.Instrument = Instrument.GetInstrument("ES 03-25");
                script.BarsPeriod = new BarsPeriod { BarsPeriodType = BarsPeriodType.Minute, Value = c.Int("minutes", 1) };
                script.ChartControl = new NinjaTrader.Gui.Chart.ChartControl();
                foreach (State state in new[] { State.SetDefaults, State.Configure, State.DataLoaded, State.Historical })
                {
                    script.Enter(state);
                }
                int number = 0;
                foreach (object price in c.List("historical"))
                {
                    script.Bar(Sim.Now().AddMinutes(-100 + number++), (double)(decimal)price);
                }
                script.Enter(State.Transition);
                script.Enter(State.Realtime);
                foreach (object price in c.List("realtime"))
                {
                    script.Bar(Sim.Now().AddMinutes(number++), (double)(decimal)price);
                }
                Thread.Sleep(50); // the chart's dispatcher works on another thread
            }
            Thread.Sleep(c.Int("linger_ms", 0));
            bool stretched = all.Any(s => s.UserControlCollection.Any(e => e.HorizontalAlignment == System.Windows.HorizontalAlignment.Stretch));
            foreach (NinjaScriptBase script in all)
            {
                removed = Press(script, c.Flag("kill", false)) && removed;
            }
            return new FKSObject().Set("buttons_removed", removed).Set("stretched", stretched);
        }

        private static bool Press(NinjaScriptBase script, bool kill)
        {
            List<System.Windows.Controls.Button> buttons = script.UserControlCollection.OfType<System.Windows.Controls.StackPanel>()
                .SelectMany(p => p.Children.OfType<System.Windows.Controls.Button>()).ToList();
            if (kill && buttons.Count > 0)
            {
                buttons[0].Press();
            }
            script.Enter(State.Terminated);
            Thread.Sleep(50);
            return script.UserControlCollection.Count == 0 && buttons.All(b => b.Handlers == 0);
        }

        // ================= state =================

        private static void Init(FKSObject c)
        {
            Sim.Folder = c.Text("folder");
            Sim.NowMs = c.Long("now_ms", 0);
            connection = new Connection("Simulated");
            lock (Connection.Connections)
            {
                Connection.Connections.Add(connection);
            }
            foreach (object name in c.List("accounts"))
            {
                bool simulation = ((string)name).StartsWith("Sim", StringComparison.Ordinal);
                Sim.AddAccount((string)name, simulation ? Provider.Simulator : Provider.External, connection);
            }
            if (c.Has("live"))
            {
                StartLive(c.Object("live"));
                return;
            }
            statePath = Path.Combine(Sim.Folder, "broker.json");
            if (File.Exists(statePath))
            {
                Load(FKSJson.ParseObject(File.ReadAllText(statePath)));
            }
            Sim.Saved = Save;
        }

        /// <summary>Follow the clock of this machine, with a broker that acts by itself (keys: seed, instrument, price, crash_chance, and names of late orders).</summary>
        private static void StartLive(FKSObject c)
        {
            Sim.RealClock = true;
            int seed = c.Int("seed", 1);
            Random crashes = new Random(seed);
            double chance = Double(c, "crash_chance");
            HostedBridge.CrashDrawn = delegate
            {
                lock (crashes)
                {
                    return crashes.NextDouble() < chance;
                }
            };
            broker = new LiveBroker(Sim.Folder, Sim.AccountOf("Sim101"), connection, Instrument.GetInstrument(c.Text("instrument")), Double(c, "price"), seed,
                (c.List("late") ?? new List<object>()).Cast<string>());
            broker.Start();
        }

        internal static FKSObject Json(Order o)
        {
            return new FKSObject().Set("account", o.Account.Name).Set("name", o.Name).Set("instrument", FKSOrders.InstrumentName(o.Instrument)).Set("action", o.OrderAction.ToString())
                .Set("type", o.OrderType.ToString()).Set("qty", o.Quantity).Set("limit", o.LimitPrice).Set("stop", o.StopPrice).Set("entry", o.OrderEntry.ToString())
                .Set("tif", o.TimeInForce.ToString()).Set("oco", o.Oco).Set("state", o.OrderState.ToString()).Set("filled", o.Filled).Set("average", o.AverageFillPrice)
                .Set("order_id", o.OrderId).Set("number", o.Id).Set("time", o.Time.Ticks / 10000);
        }

        internal static Order FromJson(FKSObject m)
        {
            return new Order
            {
                Account = Sim.AccountOf(m.Text("account")), Name = m.Text("name"), Instrument = Instrument.GetInstrument(m.Text("instrument")),
                OrderAction = Parse<OrderAction>(m.Text("action")), OrderType = Parse<OrderType>(m.Text("type")), Quantity = m.Int("qty", 0), LimitPrice = Double(m, "limit"),
                StopPrice = Double(m, "stop"), OrderEntry = Parse<OrderEntry>(m.Text("entry")), TimeInForce = Parse<TimeInForce>(m.Text("tif")), Oco = m.Text("oco"),
                OrderState = Parse<OrderState>(m.Text("state")), Filled = m.Int("filled", 0), AverageFillPrice = Double(m, "average"), OrderId = m.Text("order_id"),
                Id = m.Long("number", 0), Time = new DateTime(m.Long("time", 0) * 10000), Gtd = Globals.MaxDate
            };
        }

        internal static FKSObject Json(Execution x)
        {
            return new FKSObject().Set("account", x.Account.Name).Set("name", x.Name).Set("id", x.ExecutionId).Set("order_id", x.OrderId)
                .Set("instrument", FKSOrders.InstrumentName(x.Instrument)).Set("qty", x.Quantity).Set("price", x.Price).Set("side", x.MarketPosition.ToString())
                .Set("time", x.Time.Ticks / 10000);
        }

        internal static Execution ExecutionOf(FKSObject m)
        {
            return new Execution
            {
                Account = Sim.AccountOf(m.Text("account")), Name = m.Text("name"), ExecutionId = m.Text("id"), OrderId = m.Text("order_id"),
                Order = Sim.OrderOf(m.Text("name")), Instrument = Instrument.GetInstrument(m.Text("instrument")), Quantity = m.Int("qty", 0), Price = Double(m, "price"),
                MarketPosition = Parse<MarketPosition>(m.Text("side")), Time = new DateTime(m.Long("time", 0) * 10000)
            };
        }

        internal static T Parse<T>(string text)
        {
            return (T)Enum.Parse(typeof(T), text);
        }

        internal static double Double(FKSObject m, string key)
        {
            return (double)(m.Decimal(key) ?? 0);
        }

        private static List<Account> Accounts()
        {
            lock (Account.All)
            {
                return Account.All.ToList();
            }
        }

        private static void Save(Order changed)
        {
            lock (saveGate)
            {
                List<object> orders = new List<object>();
                List<object> fills = new List<object>();
                List<object> positions = new List<object>();
                foreach (Account account in Accounts())
                {
                    lock (account.Orders)
                    {
                        orders.AddRange(account.Orders.Select(o => Json(o)));
                    }
                    lock (account.Executions)
                    {
                        fills.AddRange(account.Executions.Select(x => Json(x)));
                    }
                    lock (account.Positions)
                    {
                        positions.AddRange(account.Positions.Select(p => new FKSObject().Set("account", account.Name).Set("instrument", FKSOrders.InstrumentName(p.Instrument))
                            .Set("signed", p.MarketPosition == MarketPosition.Long ? p.Quantity : -p.Quantity).Set("price", p.AveragePrice)));
                    }
                }
                FKSObject made = new FKSObject().Set("orders", orders).Set("executions", fills).Set("positions", positions)
                    .Set("submits", Sim.Submits.ToArray().Select(o => Json(o)).ToArray()).Set("calls", Sim.Calls.ToArray());
                File.WriteAllText(statePath + ".new", FKSJson.Write(made));
                if (File.Exists(statePath))
                {
                    File.Replace(statePath + ".new", statePath, null);
                }
                else
                {
                    File.Move(statePath + ".new", statePath);
                }
            }
        }

        private static void Load(FKSObject m)
        {
            foreach (FKSObject item in m.List("orders"))
            {
                Order made = FromJson(item);
                lock (made.Account.Orders)
                {
                    made.Account.Orders.Add(made);
                }
            }
            foreach (FKSObject item in m.List("executions"))
            {
                Execution made = ExecutionOf(item);
                executions[made.ExecutionId] = made;
                lock (made.Account.Executions)
                {
                    made.Account.Executions.Add(made);
                }
            }
            foreach (FKSObject item in m.List("positions"))
            {
                Sim.SetPosition(Sim.AccountOf(item.Text("account")), Instrument.GetInstrument(item.Text("instrument")), item.Int("signed", 0), Double(item, "price"));
            }
            Sim.Submits.AddRange(m.List("submits").Select(o => FromJson((FKSObject)o)));
            Sim.Calls.AddRange(m.List("calls").Select(o => (string)o));
        }

        // ================= report =================

        private static object[] Submits()
        {
            lock (Sim.Turn)
            {
                return Sim.Submits.Select(o => (object)Json(o)).ToArray();
            }
        }

        private static FKSObject Report(string id)
        {
            Account account = Sim.AccountOf("Sim101");
            List<object> live = new List<object>();
            lock (account.Orders)
            {
                live.AddRange(account.Orders.Select(o => Json(o)));
            }
            List<object> fills = new List<object>();
            lock (account.Executions)
            {
                fills.AddRange(account.Executions.Select(x => Json(x)));
            }
            FKSObject made = new FKSObject().Set("submits", Submits()).Set("calls", Sim.Calls.ToArray()).Set("orders", live).Set("executions", fills)
                .Set("submit_ms", Sim.SubmitMs).Set("faults", Sim.Faults.ToArray()).Set("printed", Sim.Printouts.ToArray())
                .Set("handlers", new FKSObject().Set("OrderUpdate", account.Handlers[0]).Set("ExecutionUpdate", account.Handlers[1]).Set("PositionUpdate", account.Handlers[2])
                    .Set("AccountItemUpdate", account.Handlers[3]).Set("AccountStatusUpdate", Account.StatusHandlers).Set("ConnectionStatusUpdate", Connection.Handlers)
                    .Set("MarketData", Sim.MarketHandlers()));
            if (bridge == null || FKSBridge.Current != bridge)
            {
                return made;
            }
            bridge.Ask(delegate
            {
                FKSObject lines = new FKSObject();
                foreach (FKSSession session in bridge.Sessions)
                {
                    lines.Set(session.PeerPort.ToString(CultureInfo.InvariantCulture), session.Lines);
                }
                made.Set("lines", lines).Set("session", bridge.Control()).Set("halted", bridge.Journal.Halted).Set("last_seq", bridge.Journal.LastSeq);
                if (id != null)
                {
                    made.Set("signal", bridge.Orders.Query("r", id).Text("state"));
                }
            });
            return made;
        }

        // ================= the platform acts =================

        private static void Platform(string name, FKSObject c)
        {
            switch (name)
            {
                case "account":
                    SetAccount(c);
                    break;
                case "connection":
                    SetConnection(c);
                    break;
                case "order":
                    SetOrder(c);
                    break;
                case "fill":
                    Order filled = Sim.OrderOf(c.Text("name"));
                    executions[c.Text("exec")] = Sim.Fill(filled, c.Int("qty", 0), Double(c, "price"), c.Text("exec"), false);
                    break;
                case "exec":
                    executions[c.Text("exec")] = Sim.Fill(Sim.OrderOf(c.Text("name")), c.Int("qty", 0), Double(c, "price"), c.Text("exec"), true);
                    break;
                case "position":
                    int qty = c.Int("qty", 0);
                    Sim.SetPosition(Sim.AccountOf("Sim101"), Instrument.GetInstrument(c.Text("instrument")), c.Text("side") == "short" ? -qty : qty, Double(c, "avg"));
                    break;
                case "on_submit":
                    scripts[c.Text("name")] = c;
                    break;
                case "reject":
                    rejects[c.Text("role")] = c.Int("count", 1);
                    break;
                case "executions_again":
                    foreach (object id in c.List("execs"))
                    {
                        Sim.Raise(executions[(string)id], Operation.Add);
                    }
                    break;
                case "late":
                    Sim.LateDrawn = delegate
                    {
                        Sim.LateDrawn = null;
                        return c.Int("ms", 0);
                    };
                    break;
                case "orders_again":
                    Sim.HandOverAgain(Sim.AccountOf("Sim101"));
                    break;
                case "disk":
                    Switch("disk_full", c.Flag("full", false));
                    Switch("disk_slow", c.Flag("slow", false));
                    break;
                default:
                    Market(name, c);
                    break;
            }
        }

        private static void SetAccount(FKSObject c)
        {
            Account account = Sim.AccountOf(c.Text("name"));
            if (account == null)
            {
                account = Sim.AddAccount(c.Text("name"), c.Flag("live", false) ? Provider.External : Provider.Simulator, connection);
            }
            if (c.Has("live"))
            {
                account.Provider = c.Flag("live", false) ? Provider.External : Provider.Simulator;
            }
            if (c.Has("connected"))
            {
                account.Connection = c.Flag("connected", true) ? connection : null;
            }
            account.RaiseStatus();
        }

        private static void SetConnection(FKSObject c)
        {
            connection.Set(c.Has("status") ? Parse<ConnectionStatus>(c.Text("status")) : connection.Status,
                c.Has("price_status") ? Parse<ConnectionStatus>(c.Text("price_status")) : connection.PriceStatus);
            foreach (Account account in Accounts())
            {
                account.RaiseStatus();
            }
        }

        private static void SetOrder(FKSObject c)
        {
            Order order = Sim.OrderOf(c.Text("name"));
            if (c.Has("order_id"))
            {
                order.OrderId = c.Text("order_id");
            }
            ErrorCode error = c.Has("error") ? Parse<ErrorCode>(c.Text("error")) : ErrorCode.NoError;
            foreach (object state in c.List("states"))
            {
                Sim.State(order, Parse<OrderState>((string)state), error, c.Text("comment") ?? "");
            }
        }

        private static void InsideSubmit(Account account, Order order)
        {
            FKSObject script;
            if (scripts.TryGetValue(order.Name, out script))
            {
                Play(order, script.List("inside"));
                Later(delegate { Play(order, script.List("after")); });
            }
            FKSName parts = FKSProtocol.ParseName(order.Name);
            int count;
            if (parts != null && rejects.TryGetValue(parts.Role, out count) && count > 0)
            {
                rejects[parts.Role] = count - 1;
                Later(delegate { Sim.State(order, OrderState.Rejected, ErrorCode.OrderRejected, "rejected by the script"); });
            }
        }

        private static void Later(Action action)
        {
            lock (pending)
            {
                pending.Add(action);
            }
        }

        private static void Play(Order order, List<object> steps)
        {
            foreach (FKSObject step in steps)
            {
                if (step.Has("order"))
                {
                    Sim.State(order, Parse<OrderState>(step.Text("order")), ErrorCode.NoError, "");
                    continue;
                }
                FKSObject x = step.Object("exec");
                executions[x.Text("exec")] = Sim.Fill(order, x.Int("qty", 0), Double(x, "price"), x.Text("exec"), true);
            }
        }

        private static void Market(string name, FKSObject c)
        {
            switch (name)
            {
                case "trade":
                    double price = Double(c, "price");
                    string side = c.Text("side");
                    Sim.Tick(Instrument.GetInstrument(c.Text("instrument")), MarketDataType.Last, price, c.Long("qty", 1), side == "sell" ? price : 0, side == "buy" ? price : 0);
                    break;
                case "quote":
                    Instrument instrument = Instrument.GetInstrument(c.Text("instrument"));
                    Sim.Tick(instrument, MarketDataType.Bid, Double(c, "bid"), c.Long("bid_qty", 0), 0, 0);
                    Sim.Tick(instrument, MarketDataType.Ask, Double(c, "ask"), c.Long("ask_qty", 0), 0, 0);
                    break;
                case "timezone":
                    Globals.GeneralOptions.TimeZoneInfo = TimeZoneInfo.FindSystemTimeZoneById(c.Text("id"));
                    break;
                case "bars":
                    foreach (FKSObject bar in c.List("bars"))
                    {
                        DateTime close = DateTime.ParseExact(bar.Text("close"), "yyyy-MM-ddTHH:mm:ss", CultureInfo.InvariantCulture);
                        Sim.AddBar(Instrument.GetInstrument(c.Text("instrument")), c.Text("period") == "1d" ? BarsPeriodType.Day : BarsPeriodType.Minute, close,
                            new[] { Double(bar, "o"), Double(bar, "h"), Double(bar, "l"), Double(bar, "c"), Double(bar, "v") });
                    }
                    break;
                default:
                    throw new ArgumentException("unknown command " + name);
            }
        }
    }
}
