// A broker that acts by itself in real time, on a thread of its own: it accepts, rejects and cancels orders, fills them in
// parts at a price that moves, loses its connection, and hands over orders and executions again afterwards. Everything is
// drawn from a seed. What it knows is appended to a file before its first event, so that a killed process loses none of it.
using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Text;
using System.Threading;
using NinjaTrader.Cbi;
using NinjaTrader.Data;
using NinjaTrader.NinjaScript.AddOns;

namespace FKS.Host
{
    internal sealed class LiveBroker
    {
        private const int StepMs = 10;
        private const int PriceMs = 100;
        private const int LostMs = 300;
        private const int AwayStepsMax = 100;
        private const double LossChance = 0.0004;
        private const double RejectChance = 0.03;
        private const int LateMsMax = 400;
        private const double Tick = 0.25;

        private readonly Account account;
        private readonly Connection connection;
        private readonly Instrument instrument;
        private readonly Random dice;
        private readonly HashSet<string> late;
        private readonly Random lateDice; // drawn by the thread that submits
        private readonly string path;
        private readonly object fileGate = new object();
        private readonly List<Action> asked = new List<Action>();
        private readonly HashSet<string> cancels = new HashSet<string>(StringComparer.Ordinal);
        private readonly Dictionary<string, string> written = new Dictionary<string, string>(StringComparer.Ordinal);
        private FileStream file;
        private int executionsWritten;
        private long executionNumber;
        private double price;
        private double average;
        private long pricedMs;
        private long lostMs = -1;
        private bool isClosing;

        /// <summary>Set: the price stands, nothing is rejected or lost; what was asked for is still done.</summary>
        public volatile bool IsCalm;

        public LiveBroker(string folder, Account account, Connection connection, Instrument instrument, double price, int seed, IEnumerable<string> late)
        {
            this.late = new HashSet<string>(late, StringComparer.Ordinal);
            this.account = account;
            this.connection = connection;
            this.instrument = instrument;
            this.price = price;
            dice = new Random(seed);
            lateDice = new Random(seed + 1);
            path = Path.Combine(folder, "broker.jsonl");
        }

        /// <summary>Read what is known, act a while without a platform that listens, and then in real time.</summary>
        public void Start()
        {
            if (File.Exists(path))
            {
                Load();
            }
            file = new FileStream(path, FileMode.Append, FileAccess.Write, FileShare.Read);
            Sim.Saved = Save;
            Sim.Faulted = delegate(string text) { Append(new FKSObject().Set("k", "fault").Set("text", text)); };
            Sim.InsideSubmit = delegate(Account a, Order o) { Append(new FKSObject().Set("k", "submit").Set("order", Program.Json(o))); };
            Sim.LateDrawn = DrawLate;
            Sim.CancelAsked = delegate(Order o) { Ask(delegate { cancels.Add(o.Name); }); };
            Sim.ChangeAsked = delegate(Order o, double limit, double stop, int quantity) { Ask(delegate { Change(o.Name, limit, stop, quantity); }); };
            Sim.FlattenAsked = delegate { Ask(delegate { isClosing = true; }); };
            for (int left = dice.Next(AwayStepsMax); left > 0; left--)
            {
                Step();
            }
            Thread made = new Thread(Run);
            made.IsBackground = true;
            made.Name = "broker";
            made.Start();
        }

        private void Run()
        {
            while (true)
            {
                try
                {
                    Step();
                }
                catch (Exception cause)
                {
                    Sim.Fault("the broker failed: " + cause);
                }
                Thread.Sleep(StepMs);
            }
        }

        /// <summary>An order of `late` comes before its absence is proven, and also while the process is dead.</summary>
        private int DrawLate(Order order)
        {
            if (!late.Contains(order.Name))
            {
                return -1;
            }
            int ms = lateDice.Next(LateMsMax);
            Append(new FKSObject().Set("k", "late").Set("order", Program.Json(order)).Set("due_ms", Sim.NowMs + ms));
            return ms;
        }

        private void Ask(Action action)
        {
            lock (asked)
            {
                asked.Add(action);
            }
        }

        private bool Draw(double chance)
        {
            return dice.NextDouble() < chance;
        }

        // ================= acting =================

        private void Step()
        {
            lock (Sim.Turn)
            {
                Action[] due;
                lock (asked)
                {
                    due = asked.ToArray();
                    asked.Clear();
                }
                foreach (Action action in due)
                {
                    action();
                }
                Sim.TakeLate();
                MovePrice();
                if (!IsConnected())
                {
                    return;
                }
                Order[] all;
                lock (account.Orders)
                {
                    all = account.Orders.ToArray();
                }
                HashSet<string> ended = new HashSet<string>(all.Where(o => o.Oco.Length > 0 && Order.IsTerminalState(o.OrderState)).Select(o => o.Oco));
                Order[] live = all.Where(o => !Order.IsTerminalState(o.OrderState)).ToArray();
                foreach (Order order in live)
                {
                    Act(order, ended);
                }
                if (isClosing)
                {
                    Close(live);
                }
            }
        }

        private void MovePrice()
        {
            long now = Sim.NowMs;
            if (now - pricedMs < PriceMs)
            {
                return;
            }
            pricedMs = now;
            price += IsCalm ? 0 : Tick * dice.Next(-6, 7);
            Sim.Tick(instrument, MarketDataType.Last, price, 1, 0, 0);
        }

        /// <summary>After a lost connection the platform lists orders as new objects and hands all executions over again.</summary>
        private bool IsConnected()
        {
            if (lostMs < 0 && !IsCalm && Draw(LossChance))
            {
                lostMs = Sim.NowMs;
                Set(ConnectionStatus.ConnectionLost);
            }
            else if (lostMs >= 0 && Sim.NowMs - lostMs >= LostMs)
            {
                lostMs = -1;
                Set(ConnectionStatus.Connected);
                Sim.HandOverAgain(account);
            }
            return lostMs < 0;
        }

        private void Set(ConnectionStatus status)
        {
            connection.Set(status, status);
            account.RaiseStatus();
        }

        private void Act(Order order, HashSet<string> ended)
        {
            bool isEntry = order.Oco.Length == 0 && order.Name.StartsWith("FKS:", StringComparison.Ordinal);
            if (ended.Contains(order.Oco))
            {
                End(order, OrderState.Cancelled, ErrorCode.NoError, ended);
            }
            else if (order.OrderState == OrderState.Submitted)
            {
                bool isRejected = isEntry && !IsCalm && Draw(RejectChance);
                if (isRejected)
                {
                    End(order, OrderState.Rejected, ErrorCode.OrderRejected, ended);
                }
                else if (Draw(0.3))
                {
                    Sim.State(order, OrderState.Accepted, ErrorCode.NoError, "");
                }
            }
            else if (order.OrderState == OrderState.Accepted && order.OrderType != OrderType.StopMarket)
            {
                Sim.State(order, OrderState.Working, ErrorCode.NoError, "");
            }
            else if (IsDue(order) && Draw(0.3))
            {
                Fill(order, isEntry && Draw(0.6) ? 1 : order.Quantity - order.Filled, ended);
            }
            else if (cancels.Contains(order.Name) && Draw(0.3))
            {
                End(order, OrderState.Cancelled, ErrorCode.NoError, ended);
            }
        }

        private bool IsDue(Order order)
        {
            if (order.OrderType == OrderType.Market)
            {
                return true;
            }
            if (IsCalm)
            {
                return false;
            }
            bool isBuy = order.OrderAction == OrderAction.Buy || order.OrderAction == OrderAction.BuyToCover;
            return order.OrderType == OrderType.Limit ? (isBuy ? price <= order.LimitPrice : price >= order.LimitPrice)
                : (isBuy ? price >= order.StopPrice : price <= order.StopPrice);
        }

        private void Fill(Order order, int quantity, HashSet<string> ended)
        {
            executionNumber++;
            average = order.OrderType == OrderType.Limit ? order.LimitPrice : price;
            Sim.Fill(order, quantity, average, "X" + executionNumber.ToString(CultureInfo.InvariantCulture), false);
            if (Order.IsTerminalState(order.OrderState) && order.Oco.Length > 0)
            {
                ended.Add(order.Oco);
            }
        }

        private void End(Order order, OrderState state, ErrorCode error, HashSet<string> ended)
        {
            cancels.Remove(order.Name);
            if (order.Oco.Length > 0)
            {
                ended.Add(order.Oco);
            }
            Sim.State(order, state, error, error == ErrorCode.NoError ? "" : "rejected by the exchange");
        }

        private void Change(string name, double limit, double stop, int quantity)
        {
            Order order = Sim.OrderOf(name);
            if (order == null || Order.IsTerminalState(order.OrderState) || quantity <= order.Filled)
            {
                return;
            }
            order.LimitPrice = limit;
            order.StopPrice = stop;
            order.Quantity = quantity;
            Sim.State(order, order.OrderState, ErrorCode.NoError, "");
        }

        /// <summary>Flatten: cancel all that works, then one market order for what is held.</summary>
        private void Close(Order[] live)
        {
            Order[] open = live.Where(o => !Order.IsTerminalState(o.OrderState)).ToArray();
            foreach (Order order in open.Where(o => o.Name != "Close"))
            {
                cancels.Add(order.Name);
            }
            if (open.Length > 0)
            {
                return;
            }
            int held = Sim.SignedPosition(account, instrument);
            if (held == 0)
            {
                isClosing = false;
                return;
            }
            account.Submit(new[] { account.CreateOrder(instrument, held > 0 ? OrderAction.Sell : OrderAction.BuyToCover, OrderType.Market, OrderEntry.Manual,
                TimeInForce.Day, Math.Abs(held), 0, 0, "", "Close", NinjaTrader.Core.Globals.MaxDate, null) });
        }

        // ================= file =================

        /// <summary>Append an order with the executions and the position that came with it, as one line.</summary>
        private void Save(Order order)
        {
            if (order == null)
            {
                return;
            }
            lock (fileGate)
            {
                List<object> fresh = new List<object>();
                lock (account.Executions)
                {
                    for (; executionsWritten < account.Executions.Count; executionsWritten++)
                    {
                        fresh.Add(Program.Json(account.Executions[executionsWritten]));
                    }
                }
                FKSObject found = Program.Json(order);
                string text = FKSJson.Write(found);
                string before;
                if (fresh.Count == 0 && written.TryGetValue(order.Name, out before) && before == text)
                {
                    return;
                }
                written[order.Name] = text;
                Append(new FKSObject().Set("k", "order").Set("order", found).Set("executions", fresh)
                    .Set("held", Sim.SignedPosition(account, instrument)).Set("average", average).Set("price", price));
            }
        }

        private void Append(FKSObject line)
        {
            lock (fileGate)
            {
                byte[] bytes = Encoding.UTF8.GetBytes(FKSJson.Write(line) + "\n");
                file.Write(bytes, 0, bytes.Length);
                file.Flush(); // handed to the system, where it outlives this process
            }
        }

        private void Load()
        {
            Dictionary<string, FKSObject> orders = new Dictionary<string, FKSObject>(StringComparer.Ordinal);
            List<string> names = new List<string>();
            List<FKSObject> executions = new List<FKSObject>();
            Dictionary<string, FKSObject> waiting = new Dictionary<string, FKSObject>(StringComparer.Ordinal);
            int held = 0;
            foreach (string line in Whole())
            {
                FKSObject m = FKSJson.ParseObject(line);
                if (m.Text("k") == "fault")
                {
                    Sim.Faults.Add(m.Text("text"));
                    continue;
                }
                FKSObject order = m.Object("order");
                if (m.Text("k") == "late")
                {
                    waiting[order.Text("name")] = m;
                    continue;
                }
                string name = order.Text("name") + "|" + order.Long("number", 0).ToString(CultureInfo.InvariantCulture);
                if (m.Text("k") == "submit")
                {
                    Sim.Submits.Add(Program.FromJson(order));
                    names.Add(name);
                    waiting.Remove(order.Text("name"));
                }
                orders[name] = order;
                if (m.Text("k") == "order")
                {
                    executions.AddRange(m.List("executions").Cast<FKSObject>());
                    held = m.Int("held", 0);
                    average = Program.Double(m, "average");
                    price = Program.Double(m, "price");
                }
            }
            foreach (string name in names)
            {
                Order made = Program.FromJson(orders[name]);
                if (made.Filled >= made.Quantity)
                {
                    made.OrderState = OrderState.Filled; // killed between the fill and its order state
                }
                Sim.NumberAfter(made.Id);
                lock (account.Orders)
                {
                    account.Orders.Add(made);
                }
            }
            foreach (FKSObject one in waiting.Values)
            {
                Sim.TakeAt(one.Long("due_ms", 0), Program.FromJson(one.Object("order")));
            }
            foreach (FKSObject execution in executions)
            {
                lock (account.Executions)
                {
                    account.Executions.Add(Program.ExecutionOf(execution));
                }
            }
            executionsWritten = executions.Count;
            executionNumber = executions.Count;
            if (held != 0)
            {
                Sim.SetPosition(account, instrument, held, average);
            }
        }

        /// <summary>Lines that were written to their end; the rest of one within which the process was killed is cut off.</summary>
        private string[] Whole()
        {
            byte[] bytes = File.ReadAllBytes(path);
            int end = Array.LastIndexOf(bytes, (byte)'\n') + 1;
            using (FileStream cut = new FileStream(path, FileMode.Open, FileAccess.Write))
            {
                cut.SetLength(end);
            }
            return Encoding.UTF8.GetString(bytes, 0, end).Split(new[] { '\n' }, StringSplitOptions.RemoveEmptyEntries);
        }
    }
}
