// Control of the simulated platform: clock, instruments, orders, events and faults. The broker's state is kept in a file,
// so that it outlives a killed process as a real broker's does.
using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Threading;
using NinjaTrader.Data;

namespace NinjaTrader.Cbi
{
    internal static class Sim
    {
        internal const int HandlerMsMax = 50;

        internal static string Folder = ".";
        internal static bool Symbology = false;
        internal static bool RealClock = false;
        internal static long OffsetMs = 0;
        private static long virtualMs;
        private static long orderNumber = 1000;
        private static readonly object gate = new object();
        internal static readonly Dictionary<string, MasterInstrument> Masters = new Dictionary<string, MasterInstrument>();
        private static readonly Dictionary<string, Instrument> instruments = new Dictionary<string, Instrument>();
        private static readonly Dictionary<string, MarketDataEventArgs> quotes = new Dictionary<string, MarketDataEventArgs>();
        internal static readonly List<string> Calls = new List<string>();
        internal static readonly List<Order> Submits = new List<Order>();
        internal static long SubmitMs;
        internal static readonly List<string> Faults = new List<string>();
        internal static readonly List<string> Printouts = new List<string>();
        internal static readonly Dictionary<string, Bars> HistoryBars = new Dictionary<string, Bars>();
        internal static readonly HashSet<string> Switches = new HashSet<string>();
        internal static Action<Account, Order> InsideSubmit = null;
        /// <summary>Keeps the broker's state: of this order, or of everything where the order is null.</summary>
        internal static Action<Order> Saved = null;
        /// <summary>A broker with a thread of its own acts on these; without one a test does.</summary>
        internal static Action<Order> CancelAsked = null;
        internal static Action<Order, double, double, int> ChangeAsked = null;
        internal static Action<Account, Instrument[]> FlattenAsked = null;
        internal static Action<string> Faulted = null;
        /// <summary>Draws how many ms after its Submit threw the broker takes an order; negative: Submit does not throw.</summary>
        internal static Func<Order, int> LateDrawn = null;
        private static readonly List<KeyValuePair<long, Order>> late = new List<KeyValuePair<long, Order>>();
        /// <summary>Held during Submit: a broker with a thread of its own sees all orders of a call or none.</summary>
        internal static readonly object Turn = new object();

        static Sim()
        {
            foreach (string row in new[]
            {
                "ES 0.25 50", "MES 0.25 5", "NQ 0.25 20", "MNQ 0.25 2", "RTY 0.1 50", "M2K 0.1 5", "YM 1 5", "MYM 1 0.5", "CL 0.01 1000", "MCL 0.01 100",
                "GC 0.1 100", "MGC 0.1 10", "SI 0.005 5000", "ZB 0.03125 1000", "ZN 0.015625 1000", "6E 0.00005 125000"
            })
            {
                string[] part = row.Split(' ');
                Masters[part[0]] = new MasterInstrument(part[0], double.Parse(part[1], CultureInfo.InvariantCulture), double.Parse(part[2], CultureInfo.InvariantCulture));
            }
        }

        // ---- clock ----

        internal static long NowMs
        {
            get
            {
                return RealClock ? (long)(DateTime.UtcNow - new DateTime(1970, 1, 1, 0, 0, 0, DateTimeKind.Utc)).TotalMilliseconds + OffsetMs : Interlocked.Read(ref virtualMs);
            }
            set
            {
                Interlocked.Exchange(ref virtualMs, value);
            }
        }

        internal static DateTime Utc(long ms)
        {
            return new DateTime(1970, 1, 1, 0, 0, 0, DateTimeKind.Utc).AddMilliseconds(ms);
        }

        /// <summary>Platform time: the zone of the user's settings, kind unspecified.</summary>
        internal static DateTime Now()
        {
            DateTime local = TimeZoneInfo.ConvertTimeFromUtc(Utc(NowMs), NinjaTrader.Core.Globals.GeneralOptions.TimeZoneInfo);
            return DateTime.SpecifyKind(local, DateTimeKind.Unspecified);
        }

        // ---- records ----

        internal static void Fault(string text)
        {
            lock (gate)
            {
                Faults.Add(text);
            }
            Action<string> faulted = Faulted;
            if (faulted != null)
            {
                faulted(text);
            }
        }

        internal static void Printed(string text)
        {
            lock (gate)
            {
                Printouts.Add(text);
            }
        }

        internal static void Call(string text)
        {
            lock (gate)
            {
                Calls.Add(text);
            }
            Save(null);
        }

        internal static void Save(Order order)
        {
            Action<Order> saved = Saved;
            if (saved != null)
            {
                saved(order);
            }
        }

        internal static int Count(Delegate handlers)
        {
            return handlers == null ? 0 : handlers.GetInvocationList().Length;
        }

        /// <summary>Raise an event and note a handler that takes longer than 50 ms.</summary>
        internal static void Raise<T>(EventHandler<T> handlers, object sender, T e) where T : EventArgs
        {
            if (handlers == null)
            {
                return;
            }
            foreach (EventHandler<T> handler in handlers.GetInvocationList())
            {
                Stopwatch watch = Stopwatch.StartNew();
                handler(sender, e);
                if (watch.ElapsedMilliseconds > HandlerMsMax)
                {
                    Fault("a handler of " + typeof(T).Name + " took " + watch.ElapsedMilliseconds.ToString(CultureInfo.InvariantCulture) + " ms");
                }
            }
        }

        // ---- instruments and prices ----

        internal static Instrument Find(string name)
        {
            string[] part = (name ?? "").Split(' ');
            DateTime expiry;
            if (part.Length != 2 || !Masters.ContainsKey(part[0])
                || !DateTime.TryParseExact(part[1], "MM-yy", CultureInfo.InvariantCulture, DateTimeStyles.None, out expiry))
            {
                return null;
            }
            lock (gate)
            {
                Instrument found;
                if (!instruments.TryGetValue(name, out found))
                {
                    found = new Instrument(Masters[part[0]], expiry);
                    instruments[name] = found;
                }
                return found;
            }
        }

        private static string Key(Instrument instrument, MarketDataType type)
        {
            return instrument.MasterInstrument.Name + instrument.Expiry.ToString("yyyyMM", CultureInfo.InvariantCulture) + type;
        }

        internal static MarketDataEventArgs Quote(Instrument instrument, MarketDataType type)
        {
            lock (gate)
            {
                MarketDataEventArgs found;
                return quotes.TryGetValue(Key(instrument, type), out found) ? found : null;
            }
        }

        internal static void Tick(Instrument instrument, MarketDataType type, double price, long volume, double bid, double ask)
        {
            MarketDataEventArgs e = new MarketDataEventArgs { Instrument = instrument, MarketDataType = type, Price = price, Volume = volume, Bid = bid, Ask = ask, Time = Now() };
            lock (gate)
            {
                quotes[Key(instrument, type)] = e;
            }
            MarketData[] all;
            lock (MarketData.Made)
            {
                all = MarketData.Made.Select(w => (MarketData)w.Target).Where(m => m != null && m.Instrument == instrument).ToArray();
            }
            foreach (MarketData data in all)
            {
                data.Raise(e);
            }
        }

        internal static int MarketHandlers()
        {
            lock (MarketData.Made)
            {
                return MarketData.Made.Select(w => (MarketData)w.Target).Where(m => m != null).Sum(m => m.Handlers);
            }
        }

        internal static void History(BarsRequest request, Action<BarsRequest, ErrorCode, string> callback)
        {
            Bars found;
            lock (gate)
            {
                HistoryBars.TryGetValue(Key(request.Instrument, MarketDataType.Last) + request.BarsPeriod.BarsPeriodType, out found);
            }
            request.Bars = found ?? new Bars(); // the real platform also returns bars outside of the requested times
            ThreadPool.QueueUserWorkItem(delegate { callback(request, ErrorCode.NoError, ""); });
        }

        internal static void AddBar(Instrument instrument, BarsPeriodType type, DateTime close, double[] row)
        {
            lock (gate)
            {
                string key = Key(instrument, MarketDataType.Last) + type;
                if (!HistoryBars.ContainsKey(key))
                {
                    HistoryBars[key] = new Bars();
                }
                HistoryBars[key].Rows.Add(row);
                HistoryBars[key].Times.Add(close);
            }
        }

        // ---- accounts ----

        internal static Account AddAccount(string name, Provider provider, Connection connection)
        {
            Account made = new Account(name, provider);
            made.Connection = connection;
            lock (Account.All)
            {
                Account.All.Add(made);
            }
            made.RaiseStatus();
            return made;
        }

        internal static Account AccountOf(string name)
        {
            lock (Account.All)
            {
                return Account.All.FirstOrDefault(a => a.Name == name);
            }
        }

        /// <summary>Numbers of later orders are larger than this one.</summary>
        internal static void NumberAfter(long number)
        {
            orderNumber = Math.Max(orderNumber, number);
        }

        internal static Order OrderOf(string name)
        {
            List<Account> accounts;
            lock (Account.All)
            {
                accounts = Account.All.ToList();
            }
            foreach (Account account in accounts)
            {
                lock (account.Orders)
                {
                    Order found = account.Orders.LastOrDefault(o => o.Name == name);
                    if (found != null)
                    {
                        return found;
                    }
                }
            }
            return null;
        }

        // ---- calls of the AddOn ----

        internal static Order Create(Account account, Instrument instrument, OrderAction action, OrderType type, OrderEntry entry, TimeInForce tif,
            int quantity, double limit, double stop, string oco, string name, DateTime gtd)
        {
            if (Switches.Remove("create_null"))
            {
                return null;
            }
            if (Switches.Remove("create_throws") || instrument == null || name.Length > 50 || name == "Entry" || quantity < 1)
            {
                throw new InvalidOperationException("CreateOrder failed");
            }
            bool wantsLimit = type == OrderType.Limit || type == OrderType.StopLimit;
            bool wantsStop = type == OrderType.StopMarket || type == OrderType.StopLimit;
            if (wantsLimit != (limit != 0) || wantsStop != (stop != 0))
            {
                Fault("prices do not fit the order type: " + name);
            }
            if (gtd != Core.Globals.MaxDate)
            {
                Fault("gtd must be MaxDate: " + name);
            }
            return new Order
            {
                Account = account, Instrument = instrument, OrderAction = action, OrderType = type, OrderEntry = entry, TimeInForce = tif, Quantity = quantity,
                LimitPrice = limit, StopPrice = stop, Oco = oco ?? "", Name = name, Gtd = gtd, OrderId = "", OrderState = OrderState.Initialized, Time = Now()
            };
        }

        internal static void Submit(Account account, Order[] orders)
        {
            if (Switches.Remove("submit_throws_before"))
            {
                throw new InvalidOperationException("Submit failed before the broker");
            }
            Stopwatch watch = Stopwatch.StartNew();
            lock (Turn)
            {
                int lateMs = LateDrawn == null ? -1 : LateDrawn(orders[0]);
                if (lateMs >= 0)
                {
                    TakeAt(NowMs + lateMs, orders[0]);
                    throw new InvalidOperationException("Submit failed, and the broker takes the order later");
                }
                Take(account, orders);
            }
            SubmitMs = Math.Max(SubmitMs, watch.ElapsedMilliseconds);
            if (Switches.Remove("submit_throws_after"))
            {
                throw new InvalidOperationException("Submit failed after the broker had the order");
            }
        }

        internal static void TakeAt(long dueMs, Order order)
        {
            late.Add(new KeyValuePair<long, Order>(dueMs, order));
        }

        /// <summary>Let the broker take the late orders that are due. Whoever reads the time finds them taken.</summary>
        internal static void TakeLate()
        {
            lock (Turn)
            {
                foreach (KeyValuePair<long, Order> one in late.Where(o => o.Key <= NowMs).ToArray())
                {
                    late.Remove(one);
                    Take(one.Value.Account, new[] { one.Value });
                }
            }
        }

        private static void Take(Account account, Order[] orders)
        {
            foreach (Order order in orders)
            {
                lock (account.Orders)
                {
                    if (order.Oco.Length > 0 && account.Orders.Any(o => o.Oco == order.Oco && Order.IsTerminalState(o.OrderState)))
                    {
                        Fault("OCO id used again: " + order.Oco);
                    }
                    order.Id = ++orderNumber;
                    order.OrderId = "local-" + order.Id.ToString(CultureInfo.InvariantCulture);
                    order.OrderState = OrderState.Submitted;
                    account.Orders.Add(order);
                }
                lock (gate)
                {
                    Submits.Add(order.Renewed());
                }
                Call("Submit " + order.Name);
                Action<Account, Order> inside = InsideSubmit;
                if (inside != null)
                {
                    inside(account, order);
                }
                if (Switches.Contains("updates"))
                {
                    State(order, OrderState.Submitted, ErrorCode.NoError, "");
                }
            }
        }

        internal static void Change(Account account, Order[] orders)
        {
            foreach (Order order in orders)
            {
                double limit = order.LimitPriceChanged != 0 ? order.LimitPriceChanged : order.LimitPrice;
                double stop = order.StopPriceChanged != 0 ? order.StopPriceChanged : order.StopPrice;
                int quantity = order.QuantityChanged != 0 ? order.QuantityChanged : order.Quantity;
                Call("Change " + order.Name);
                order.LimitPriceChanged = 0;
                order.StopPriceChanged = 0;
                order.QuantityChanged = 0;
                if (ChangeAsked != null)
                {
                    ChangeAsked(order, limit, stop, quantity);
                    continue;
                }
                if (Switches.Contains("change_rejected"))
                {
                    Raise(order, order.OrderState, ErrorCode.UnableToChangeOrder, "change rejected");
                    continue;
                }
                order.LimitPrice = limit;
                order.StopPrice = stop;
                order.Quantity = quantity;
                if (!Switches.Contains("change_silent"))
                {
                    State(order, order.OrderState, ErrorCode.NoError, "");
                }
            }
        }

        internal static void Cancel(Account account, Order[] orders)
        {
            foreach (Order order in orders)
            {
                Call("Cancel " + order.Name);
                if (CancelAsked != null)
                {
                    CancelAsked(order);
                }
                else if (Switches.Contains("cancel_at_once") && !Order.IsTerminalState(order.OrderState))
                {
                    State(order, OrderState.Cancelled, ErrorCode.NoError, "");
                }
            }
        }

        internal static void Flatten(Account account, Instrument[] found)
        {
            Call("Flatten " + string.Join(",", found.Select(i => i.MasterInstrument.Name + " " + i.Expiry.ToString("MM-yy", CultureInfo.InvariantCulture)).ToArray()));
            if (FlattenAsked != null)
            {
                FlattenAsked(account, found);
            }
        }

        // ---- events of the broker ----

        internal static void State(Order order, OrderState state, ErrorCode error, string comment)
        {
            order.OrderState = state;
            if (order.OrderId.StartsWith("local-", StringComparison.Ordinal) && (state == OrderState.Accepted || state == OrderState.Working))
            {
                order.OrderId = (90000 + order.Id).ToString(CultureInfo.InvariantCulture); // the broker's own number arrives late
            }
            Save(order);
            Raise(order, state, error, comment);
        }

        internal static void Raise(Order order, OrderState state, ErrorCode error, string comment)
        {
            order.Account.Raise(new OrderEventArgs
            {
                Order = order, OrderId = order.OrderId, OrderState = state, Quantity = order.Quantity, Filled = order.Filled, LimitPrice = order.LimitPrice,
                StopPrice = order.StopPrice, AverageFillPrice = order.AverageFillPrice, Error = error, Comment = comment, Time = Now()
            });
        }

        /// <summary>Fill an order: order update, execution and position in this sequence; `quiet` leaves out the order update.</summary>
        internal static Execution Fill(Order order, int quantity, double price, string id, bool quiet)
        {
            double total = order.AverageFillPrice * order.Filled + price * quantity;
            order.Filled += quantity;
            order.AverageFillPrice = total / order.Filled;
            Execution made = new Execution
            {
                Account = order.Account, Order = Switches.Contains("execution_without_order") ? null : order, OrderId = order.OrderId, Name = order.Name, ExecutionId = id,
                Price = price, Quantity = quantity, Instrument = order.Instrument, Time = Now(), Commission = 1.25,
                MarketPosition = order.OrderAction == OrderAction.Buy || order.OrderAction == OrderAction.BuyToCover ? MarketPosition.Long : MarketPosition.Short
            };
            lock (order.Account.Executions)
            {
                order.Account.Executions.Add(made);
            }
            int signed = SignedPosition(order.Account, order.Instrument) + (made.MarketPosition == MarketPosition.Long ? quantity : -quantity);
            bool known;
            Position position = StorePosition(order.Account, order.Instrument, signed, price, out known);
            Save(order); // the broker knows all of the fill before the first event of it
            if (!quiet)
            {
                State(order, order.Filled >= order.Quantity ? OrderState.Filled : OrderState.PartFilled, ErrorCode.NoError, "");
            }
            Raise(made, Operation.Add);
            Raise(position, signed, known);
            return made;
        }

        internal static void Raise(Execution x, Operation operation)
        {
            Save(x.Order);
            x.Account.Raise(new ExecutionEventArgs
            {
                Execution = x, ExecutionId = x.ExecutionId, OrderId = x.OrderId, Price = x.Price, Quantity = x.Quantity, MarketPosition = x.MarketPosition,
                Operation = operation, IsSod = x.IsSod, Time = x.Time
            });
        }

        internal static int SignedPosition(Account account, Instrument instrument)
        {
            lock (account.Positions)
            {
                Position found = account.Positions.FirstOrDefault(p => p.Instrument == instrument);
                return found == null ? 0 : found.MarketPosition == MarketPosition.Long ? found.Quantity : found.MarketPosition == MarketPosition.Short ? -found.Quantity : 0;
            }
        }

        internal static void SetPosition(Account account, Instrument instrument, int signed, double price)
        {
            bool known;
            Position found = StorePosition(account, instrument, signed, price, out known);
            Save(null);
            Raise(found, signed, known);
        }

        private static Position StorePosition(Account account, Instrument instrument, int signed, double price, out bool known)
        {
            lock (account.Positions)
            {
                Position found = account.Positions.FirstOrDefault(p => p.Instrument == instrument);
                known = found != null;
                if (found == null)
                {
                    found = new Position { Account = account, Instrument = instrument };
                    account.Positions.Add(found);
                }
                found.Quantity = Math.Abs(signed);
                found.AveragePrice = price;
                found.MarketPosition = signed > 0 ? MarketPosition.Long : signed < 0 ? MarketPosition.Short : MarketPosition.Flat;
                if (signed == 0)
                {
                    account.Positions.Remove(found);
                }
                return found;
            }
        }

        private static void Raise(Position found, int signed, bool known)
        {
            found.Account.Raise(new PositionEventArgs
            {
                Position = found, MarketPosition = found.MarketPosition, Quantity = found.Quantity, AveragePrice = found.AveragePrice,
                Operation = signed == 0 ? Operation.Remove : known ? Operation.Update : Operation.Add
            });
        }

        /// <summary>The platform after a reconnect: orders as new objects with new ids, all executions handed over again.</summary>
        internal static void HandOverAgain(Account account)
        {
            List<Order> fresh = new List<Order>();
            lock (account.Orders)
            {
                foreach (Order order in account.Orders.ToList())
                {
                    Order made = order.Renewed();
                    made.OrderId = (++orderNumber).ToString(CultureInfo.InvariantCulture);
                    account.Orders.Remove(order);
                    account.Orders.Add(made);
                    fresh.Add(made);
                }
            }
            List<Execution> executions;
            lock (account.Executions)
            {
                executions = account.Executions.ToList();
            }
            foreach (Execution x in executions)
            {
                x.Order = fresh.FirstOrDefault(o => o.Name == x.Name);
                Raise(x, Operation.Add);
            }
        }
    }
}
