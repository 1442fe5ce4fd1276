// Orders of the bridge: state of each signal, exits per execution lot, the protection invariant, reconciliation by order
// name and flatten. The only file that calls CreateOrder, Submit, Change, Cancel and Flatten, all on the worker thread.
// It holds no lock of its own: the platform may raise events inside these calls.
using System;
using System.Collections.Generic;
using System.Globalization;
using NinjaTrader.Cbi;

namespace NinjaTrader.NinjaScript.AddOns
{
    /// <summary>Values of an order copied inside the event handler or under the lock of Account.Orders.</summary>
    public sealed class FKSOrderCopy
    {
        public string Account;
        public string Name;
        public string OrderId;
        public OrderState State;
        public int Qty;
        public int Filled;
        public double Average;
        public double Limit;
        public double Stop;
        public string Error;
        public string Comment;
        public string Instrument;
        public OrderAction Action;
        public OrderType Type;
        public OrderEntry Entry;
        public string Oco;
        public DateTime Time;

        /// <summary>From an event: its own values say what happened; the live order only names itself.</summary>
        public static FKSOrderCopy From(OrderEventArgs e)
        {
            FKSOrderCopy made = From(e.Order);
            made.OrderId = e.OrderId;
            made.State = e.OrderState;
            made.Qty = e.Quantity;
            made.Filled = e.Filled;
            made.Average = e.AverageFillPrice;
            made.Limit = e.LimitPrice;
            made.Stop = e.StopPrice;
            made.Error = e.Error == ErrorCode.NoError ? null : e.Error.ToString();
            made.Comment = e.Comment;
            return made;
        }

        public static FKSOrderCopy From(Order o)
        {
            FKSOrderCopy made = new FKSOrderCopy();
            made.Account = o.Account == null ? null : o.Account.Name;
            made.Name = o.Name ?? "";
            made.OrderId = o.OrderId;
            made.State = o.OrderState;
            made.Qty = o.Quantity;
            made.Filled = o.Filled;
            made.Average = o.AverageFillPrice;
            made.Limit = o.LimitPrice;
            made.Stop = o.StopPrice;
            made.Instrument = FKSOrders.InstrumentName(o.Instrument);
            made.Action = o.OrderAction;
            made.Type = o.OrderType;
            made.Entry = o.OrderEntry;
            made.Oco = o.Oco;
            made.Time = o.Time;
            return made;
        }

        public string Content
        {
            get
            {
                return State + "|" + Qty + "|" + Filled + "|" + Limit.ToString(CultureInfo.InvariantCulture) + "|" + Stop.ToString(CultureInfo.InvariantCulture)
                    + "|" + Error + "|" + OrderId;
            }
        }
    }

    /// <summary>Values of an execution, copied inside the event handler or under the lock of Account.Executions.</summary>
    public sealed class FKSExecutionCopy
    {
        public string Account;
        public string ExecutionId;
        public string OrderId;
        public string Name;
        public Operation Operation;
        public bool IsBuy;
        public int Qty;
        public double Price;
        public double Commission;
        public double Fee;
        public DateTime Time;
        public bool IsSod;
        public string Instrument;
        public int OrderFilled = -1;
        public OrderAction Action;

        public static FKSExecutionCopy From(ExecutionEventArgs e)
        {
            FKSExecutionCopy made = From(e.Execution);
            made.ExecutionId = e.ExecutionId;
            made.OrderId = e.OrderId;
            made.Price = e.Price;
            made.Qty = e.Quantity;
            made.IsBuy = e.MarketPosition == MarketPosition.Long;
            made.Operation = e.Operation;
            made.IsSod = e.IsSod;
            made.Time = e.Time;
            return made;
        }

        public static FKSExecutionCopy From(Execution x)
        {
            FKSExecutionCopy made = new FKSExecutionCopy();
            made.Account = x.Account.Name;
            made.ExecutionId = x.ExecutionId;
            made.OrderId = x.OrderId;
            Order order = x.Order;
            made.Name = order != null && !string.IsNullOrEmpty(order.Name) ? order.Name : x.Name ?? "";
            made.OrderFilled = order == null ? -1 : order.Filled;
            made.Operation = Operation.Add;
            made.IsBuy = x.MarketPosition == MarketPosition.Long;
            made.Action = order != null ? order.OrderAction : made.IsBuy ? OrderAction.Buy : OrderAction.SellShort;
            made.Qty = x.Quantity;
            made.Price = x.Price;
            made.Commission = x.Commission;
            made.Fee = x.Fee;
            made.Time = x.Time;
            made.IsSod = x.IsSod;
            made.Instrument = FKSOrders.InstrumentName(x.Instrument);
            return made;
        }
    }

    /// <summary>One order of ours as last reported, keyed by account and name. Order objects are looked up again for each call.</summary>
    public sealed class FKSOrder
    {
        public string Account;
        public string Name;
        public FKSName Parts;
        public string Instrument;
        public string OrderId = "";
        public OrderState State = OrderState.Initialized;
        public int Qty;
        public int Filled;
        public string Content;
        public long SinceTick;
        public bool Missing;
        public long CancelTick = -1;
        public long ChangeTick = -1;

        public bool IsTerminal
        {
            get { return State == OrderState.Filled || State == OrderState.Cancelled || State == OrderState.Rejected; }
        }

        public bool IsPending
        {
            get { return State == OrderState.Initialized || State == OrderState.Submitted || State == OrderState.AcceptedByRisk; }
        }

        /// <summary>TriggerPending is held on this PC and Unknown proves nothing: neither protects.</summary>
        public bool Protects
        {
            get { return !IsTerminal && !IsPending && !Missing && State != OrderState.TriggerPending && State != OrderState.Unknown; }
        }

        public int Remaining
        {
            get { return IsTerminal ? 0 : Math.Max(0, Qty - Filled); }
        }
    }

    public sealed class FKSLot
    {
        public int Number;
        public int Qty;
        public decimal Price;
        public int ExitFilled;
        public bool IsPlaced;
        public bool IsRepair;

        public int Open
        {
            get { return Math.Max(0, Qty - ExitFilled); }
        }
    }

    /// <summary>A signal and everything that came of it.</summary>
    public sealed class FKSTrack
    {
        public FKSSignal Signal;
        public string State;
        public string Content;
        public FKSRefusal Refusal;
        public long IntentMs;
        public bool IsRecovered;
        public bool IsEntryDone;
        public int Filled;
        public decimal FilledValue;
        public int ExitFilled;
        public string EndAs;
        public string ExitId;
        public long ExitTick = -1;
        public bool ExitSubmitted;
        public Action<FKSObject> Answer;
        public long ShortTick = -1;
        public long SurplusTick = -1;
        public bool StopRejected;
        public int Repairs;
        public bool GaveUp;
        public bool WasLive;
        public decimal? PriceUsed;
        public decimal? SlUsed;
        public decimal? TpUsed;
        public readonly List<FKSLot> Lots = new List<FKSLot>();
        public readonly List<FKSOrder> Exits = new List<FKSOrder>();

        public int Open
        {
            get { return Math.Max(0, Filled - ExitFilled); }
        }

        public bool IsFinal
        {
            get { return FKSOrders.FinalStates.Contains(State); }
        }

        /// <summary>The state as reported to clients.</summary>
        public string Reported
        {
            get { return State == "submitted" && WasLive ? "working" : State; }
        }
    }

    /// <summary>Services that the order part uses; the bridge implements them.</summary>
    public interface IFKSRuntime
    {
        FKSClock Clock { get; }
        FKSConfig Config { get; }
        FKSJournal Journal { get; }
        FKSRisk Risk { get; }
        Account FindAccount(string name);
        /// <summary>Last price and its age; null where none is known.</summary>
        decimal? LastPrice(Instrument instrument, out long ageMs);
        FKSAccountValues Values(string account);
        bool IsReady { get; }
        void Emit(string kind, FKSObject fields);
        void Log(string text, bool isError);
        /// <summary>A point at which tests end the process.</summary>
        void Reached(string point);
    }

    public sealed class FKSOrders
    {
        public const int ShortMsMax = 2000;
        public const int PendingMsMax = 10000;
        public const int SurplusMsMax = 1000;
        public const int ExitMsMax = 5000;
        public const int FlattenMsMax = 30000;
        public const int FlattenAgainMs = 5000;
        public const int RepeatMs = 5000;

        public static readonly HashSet<string> FinalStates = new HashSet<string> { "nacked", "not_submitted", "rejected", "cancelled", "expired", "closed" };

        private readonly IFKSRuntime runtime;
        private readonly Dictionary<string, FKSTrack> tracks = new Dictionary<string, FKSTrack>(StringComparer.Ordinal);
        private readonly List<FKSTrack> active = new List<FKSTrack>();
        private readonly Dictionary<string, FKSOrder> orders = new Dictionary<string, FKSOrder>(StringComparer.Ordinal);
        private readonly Dictionary<string, long> connectedTick = new Dictionary<string, long>(StringComparer.Ordinal);
        private readonly HashSet<string> settled = new HashSet<string>(StringComparer.Ordinal);
        private readonly HashSet<string> knows = new HashSet<string>(StringComparer.Ordinal); // accounts with no exit order that is not in `orders`
        private readonly HashSet<string> ambiguous = new HashSet<string>(StringComparer.Ordinal);
        private readonly HashSet<string> traded = new HashSet<string>(StringComparer.Ordinal);
        private readonly List<FKSFlatten> flattens = new List<FKSFlatten>();
        private readonly Dictionary<string, string> executionForms = new Dictionary<string, string>(StringComparer.Ordinal);
        private readonly Dictionary<string, int> booked = new Dictionary<string, int>(StringComparer.Ordinal);
        private readonly Dictionary<string, long> outsideTick = new Dictionary<string, long>(StringComparer.Ordinal);
        private readonly Dictionary<string, decimal> realized = new Dictionary<string, decimal>(StringComparer.Ordinal);
        private readonly Dictionary<string, string> demanded = new Dictionary<string, string>(StringComparer.Ordinal);
        private readonly List<FKSObject> afterAnswer = new List<FKSObject>();
        private string realizedDay = "";

        public FKSOrders(IFKSRuntime runtime)
        {
            this.runtime = runtime;
        }

        public ICollection<FKSTrack> Active
        {
            get { return active; }
        }

        public bool IsTraded(string account, string instrument)
        {
            return traded.Contains(account + "|" + instrument);
        }

        public static bool IsSimulation(Account account)
        {
            return account != null && (account.Provider == Provider.Simulator || account.Provider == Provider.Playback);
        }

        /// <summary>Canonical name "ROOT MM-YY"; null without an instrument.</summary>
        public static string InstrumentName(Instrument instrument)
        {
            return instrument == null ? null : FKSProtocol.Contract(instrument.MasterInstrument.Name, instrument.Expiry);
        }

        // ================= rebuild from the journal =================

        /// <summary>`isComplete`: the last process ended in order, so that the platform has no order which is not in `records`.</summary>
        public void Load(IEnumerable<FKSObject> records, bool isComplete)
        {
            knows.UnionWith(isComplete ? runtime.Config.Accounts.Keys : (ICollection<string>)new string[0]);
            foreach (FKSObject r in records)
            {
                switch (r.Text("r"))
                {
                    case "intent":
                        LoadIntent(r);
                        break;
                    case "submitted":
                        LoadSubmitted(r);
                        break;
                    case "nack":
                        FKSTrack nacked = new FKSTrack();
                        nacked.Content = r.Text("content");
                        nacked.State = "nacked";
                        nacked.Refusal = new FKSRefusal(r.Text("code"), r.Text("detail") ?? "");
                        tracks[r.Text("id")] = nacked;
                        break;
                    case "exits":
                        LoadExits(r);
                        break;
                    case "block":
                        runtime.Risk.RestoreBlock(r.Text("account"), r.Text("day"));
                        break;
                    case "highest":
                        runtime.Risk.RestoreHighest(r.Text("account"), r.Decimal("value") ?? 0, r.Text("day"));
                        break;
                    case "event":
                        LoadEvent(r.Object("ev"));
                        break;
                }
            }
            active.RemoveAll(delegate(FKSTrack t) { return t.IsFinal; });
            foreach (FKSTrack t in active)
            {
                if (t.State == "intent")
                {
                    t.State = "indeterminate";
                }
            }
        }

        private void LoadIntent(FKSObject r)
        {
            FKSTrack t = new FKSTrack();
            t.Signal = FKSSignal.FromJson(r.Object("signal"));
            t.Content = r.Text("content");
            t.IntentMs = r.Long("at_ms", 0);
            t.State = r.Flag("relay", false) ? "relayed" : "intent";
            t.IsRecovered = r.Flag("recovered", false);
            t.PriceUsed = r.Decimal("price_used");
            t.SlUsed = r.Decimal("sl_used");
            t.TpUsed = r.Decimal("tp_used");
            tracks[t.Signal.Id] = t;
            active.Add(t);
            traded.Add(t.Signal.Account + "|" + t.Signal.Instrument);
            Register(t, FKSProtocol.OrderName(t.Signal.Id, "E", 1), t.Signal.Qty);
        }

        private void LoadSubmitted(FKSObject r)
        {
            FKSTrack t;
            if (tracks.TryGetValue(r.Text("id"), out t) && t.State == "intent")
            {
                t.State = "submitted";
                t.ExitSubmitted = true; // an exit is not submitted again
            }
        }

        private void LoadExits(FKSObject r)
        {
            FKSTrack t;
            if (!tracks.TryGetValue(r.Text("id"), out t))
            {
                return;
            }
            int number = r.Int("lot", 1);
            FKSLot lot = t.Lots.Find(delegate(FKSLot l) { return l.Number == number; });
            if (lot == null)
            {
                lot = new FKSLot { Number = number, Qty = r.Int("qty", 0), IsRepair = r.Flag("repair", false) };
                t.Lots.Add(lot);
            }
            lot.IsPlaced = true;
            if (r.Has("stop"))
            {
                Register(t, FKSProtocol.OrderName(t.Signal.Id, "S", number), lot.Qty).Missing = true;
            }
            if (r.Has("target"))
            {
                Register(t, FKSProtocol.OrderName(t.Signal.Id, "T", number), lot.Qty).Missing = true;
            }
        }

        private void LoadEvent(FKSObject ev)
        {
            FKSTrack t = null;
            string id = ev.Text("id");
            if (id != null)
            {
                tracks.TryGetValue(id, out t);
            }
            switch (ev.Text("kind"))
            {
                case "signal":
                    if (t != null)
                    {
                        t.State = ev.Text("state");
                        t.WasLive = t.WasLive || t.State == "open";
                    }
                    break;
                case "order":
                    FKSOrder found;
                    OrderState state;
                    if (ev.Text("name") != null && orders.TryGetValue(ev.Text("account") + "|" + ev.Text("name"), out found) && Enum.TryParse(ev.Text("state"), out state))
                    {
                        found.State = state;
                        found.Filled = ev.Int("filled", found.Filled);
                        found.Qty = ev.Int("qty", found.Qty);
                        found.Missing = !found.IsTerminal && found.Parts.Role != "E";
                        if (t != null && found.Parts.Role == "E")
                        {
                            t.WasLive = true;
                            t.IsEntryDone = t.IsEntryDone || found.IsTerminal;
                        }
                    }
                    break;
                case "exec":
                    if (t != null && ev.Text("op") == "add" && !ev.Flag("sod", false) && !ev.Flag("suspect", false))
                    {
                        Book(t, ev.Text("role"), ev.Int("lot", 1), ev.Int("qty", 0), ev.Decimal("price") ?? 0, ev.Text("name"));
                    }
                    break;
            }
        }

        /// <summary>Add an execution to the sums of its signal; returns the lot that an entry execution makes.</summary>
        private FKSLot Book(FKSTrack t, string role, int lotNumber, int qty, decimal price, string name)
        {
            string key = t.Signal.Account + "|" + name;
            int before;
            booked.TryGetValue(key, out before);
            booked[key] = before + qty;
            if (role == "E")
            {
                t.Filled += qty;
                t.FilledValue += qty * price;
                if (t.Signal.IsExit)
                {
                    t.ExitFilled += qty;
                    BookExitSignal(t, qty, price);
                    return null;
                }
                int number = 1;
                foreach (FKSLot other in t.Lots)
                {
                    number = Math.Max(number, other.Number + 1);
                }
                FKSLot lot = new FKSLot { Number = number, Qty = qty, Price = price };
                t.Lots.Add(lot);
                return lot;
            }
            t.ExitFilled += qty;
            AddRealized(t, qty, price);
            FKSLot exited = t.Lots.Find(delegate(FKSLot l) { return l.Number == lotNumber; });
            if (exited != null)
            {
                exited.ExitFilled += qty;
            }
            return null;
        }

        /// <summary>Share the execution of an exit signal among the signals that it closes, oldest first.</summary>
        private void BookExitSignal(FKSTrack exit, int qty, decimal price)
        {
            List<FKSTrack> closed = Closed(exit);
            if (exit.IsRecovered)
            {
                List<FKSTrack> stopped = closed.FindAll(HasLiveStop); // its entries are not known: the exits that it has cancelled tell them
                closed.RemoveAll(HasLiveStop);
                closed.AddRange(stopped);
            }
            foreach (FKSTrack t in closed)
            {
                int part = Math.Min(qty, t.Open);
                t.ExitFilled += part;
                qty -= part;
                AddRealized(t, part, price);
                int left = part;
                foreach (FKSLot lot in t.Lots)
                {
                    int share = Math.Min(left, lot.Open);
                    lot.ExitFilled += share;
                    left -= share;
                }
            }
        }

        private List<FKSTrack> Closed(FKSTrack exit)
        {
            return active.FindAll(delegate(FKSTrack t)
            {
                return !t.Signal.IsExit && t.Open > 0 && t.Signal.Account == exit.Signal.Account && t.Signal.Instrument == exit.Signal.Instrument
                    && exit.Signal.Closes(t.Signal.Id);
            });
        }

        private static bool HasLiveStop(FKSTrack t)
        {
            return t.Exits.Exists(delegate(FKSOrder o) { return o.Parts.Role == "S" && o.Remaining > 0 && !o.Missing; });
        }

        private void AddRealized(FKSTrack t, int qty, decimal price)
        {
            string root = t.Signal.Instrument.Split(' ')[0];
            FKSContract contract = FKSContracts.Find(root);
            if (contract == null || t.Filled == 0)
            {
                return;
            }
            string day = FKSRisk.TradeDate(runtime.Clock.NowMs());
            if (day != realizedDay)
            {
                realizedDay = day;
                realized.Clear();
            }
            decimal average = t.FilledValue / t.Filled;
            decimal sum;
            realized.TryGetValue(t.Signal.Account, out sum);
            realized[t.Signal.Account] = sum + (t.Signal.IsBuy ? price - average : average - price) * qty * contract.PointValue;
        }

        /// <summary>The bridge's own result of the trade date, without commissions, from executions of its orders.</summary>
        public decimal Realized(string account)
        {
            decimal sum;
            bool today = realizedDay == FKSRisk.TradeDate(runtime.Clock.NowMs());
            return today && realized.TryGetValue(account, out sum) ? sum : 0;
        }

        private FKSOrder Register(FKSTrack t, string name, int qty)
        {
            FKSOrder made = new FKSOrder();
            made.Account = t.Signal.Account;
            made.Name = name;
            made.Parts = FKSProtocol.ParseName(name);
            made.Instrument = t.Signal.Instrument;
            made.Qty = qty;
            made.SinceTick = runtime.Clock.TickMs();
            FKSOrder before;
            if (orders.TryGetValue(made.Account + "|" + name, out before))
            {
                t.Exits.Remove(before);
            }
            orders[made.Account + "|" + name] = made;
            if (made.Parts.Role != "E")
            {
                t.Exits.Add(made);
            }
            return made;
        }

        // ================= signals =================

        /// <summary>Handle a signal; `answer` gets ack, nack or indeterminate, for an exit when its market order was submitted.</summary>
        public void Handle(FKSObject m, Action<FKSObject> answer)
        {
            FKSObject made = Decide(m, answer);
            if (made != null)
            {
                answer(made);
            }
            foreach (FKSObject late in afterAnswer)
            {
                runtime.Emit(late.Text("kind"), late.Object("fields"));
            }
            afterAnswer.Clear();
        }

        private FKSObject Decide(FKSObject m, Action<FKSObject> answer)
        {
            long now = runtime.Clock.NowMs();
            FKSRefusal refusal;
            FKSSignal s = FKSProtocol.ParseSignal(m, runtime.Config.MaxQty, out refusal);
            string id = m.Text("id");
            FKSTrack known;
            if (FKSProtocol.IsId(id) && tracks.TryGetValue(id, out known))
            {
                return Known(known, id, s, refusal, now);
            }
            if (refusal == null)
            {
                refusal = CheckTimes(s, now) ?? CheckState(s);
            }
            FKSObject relayed = null;
            Instrument instrument = null;
            FKSTrack t = null;
            if (refusal == null)
            {
                t = new FKSTrack { Signal = s, Content = s.Content(), IntentMs = now, State = "intent", Answer = answer };
                refusal = CheckTrade(t, now, out instrument, out relayed);
            }
            if (refusal != null)
            {
                return Refuse(id, s, refusal, now);
            }
            return relayed ?? Enter(t, instrument);
        }

        private FKSObject Refuse(string id, FKSSignal s, FKSRefusal refusal, long now)
        {
            if (refusal.Final && FKSProtocol.IsId(id))
            {
                FKSTrack t = new FKSTrack { State = "nacked", Refusal = refusal, Content = s == null ? null : s.Content() };
                tracks[id] = t;
                runtime.Journal.Append(new FKSObject().Set("r", "nack").Set("id", id).Set("code", refusal.Code).Set("detail", refusal.Detail)
                    .Set("content", t.Content).Set("at_ms", now));
            }
            return FKSProtocol.Nack(id, refusal, now);
        }

        private FKSObject Known(FKSTrack t, string id, FKSSignal s, FKSRefusal refusal, long now)
        {
            if (t.IsRecovered && t.Signal.IsExit && s != null && s.IsExit)
            {
                return Ack(t, true); // its order is at the platform; the record was lost with the process
            }
            if (t.IsRecovered)
            {
                return FKSProtocol.Nack(id, new FKSRefusal("duplicate_recovered", "an order of this id existed before the journal was lost"), now);
            }
            if (t.State == "nacked")
            {
                return FKSProtocol.Nack(id, t.Refusal, now);
            }
            if (s == null || s.Content() != t.Content)
            {
                return FKSProtocol.Nack(id, new FKSRefusal("duplicate_mismatch", "this id was used with other content"), now);
            }
            if (t.State == "indeterminate" || t.State == "ambiguous")
            {
                return FKSProtocol.Message("indeterminate").Set("id", id).Set("since_ms", t.IntentMs)
                    .Set("detail", t.State == "ambiguous" ? "an order without a name may be this one; an operator decides" : "the platform has not yet shown whether it has the order");
            }
            if (t.State == "not_submitted")
            {
                return FKSProtocol.Nack(id, new FKSRefusal("not_submitted", "the intent existed before a restart and the platform has no such order"), now);
            }
            return Ack(t, true);
        }

        private FKSObject Ack(FKSTrack t, bool duplicate)
        {
            return FKSProtocol.Message("ack").Set("id", t.Signal.Id).Set("state", t.Reported).Set("dup", duplicate)
                .Set("order", FKSProtocol.OrderName(t.Signal.Id, "E", 1)).SetIf("price_used", t.PriceUsed).SetIf("sl_used", t.SlUsed).SetIf("tp_used", t.TpUsed)
                .Set("at_ms", runtime.Clock.NowMs());
        }

        private static FKSRefusal CheckTimes(FKSSignal s, long now)
        {
            if (s.ValidUntil <= now)
            {
                return new FKSRefusal("expired", "valid_until has passed on the bridge's clock");
            }
            return s.ValidUntil - now > FKSProtocol.ValidityMaxMs ? new FKSRefusal("bad_field", "valid_until is more than 24 hours ahead") : null;
        }

        private FKSRefusal CheckState(FKSSignal s)
        {
            if (runtime.Journal.Error != null && !s.IsExit)
            {
                return new FKSRefusal("journal_error", runtime.Journal.Error);
            }
            if (runtime.Journal.Halted && !s.IsExit)
            {
                return new FKSRefusal("halted", "the kill latch is on; it is lifted on the Windows side");
            }
            if (!runtime.IsReady)
            {
                return new FKSRefusal("not_ready", "the bridge is starting");
            }
            foreach (FKSFlatten f in flattens)
            {
                if (f.Account == s.Account && f.Covers(s.Instrument))
                {
                    return new FKSRefusal("flattening", "the instrument is being flattened");
                }
            }
            return null;
        }

        private FKSRefusal CheckTrade(FKSTrack t, long now, out Instrument instrument, out FKSObject relayed)
        {
            FKSSignal s = t.Signal;
            instrument = null;
            relayed = null;
            Account account = runtime.FindAccount(s.Account);
            FKSRefusal refusal = CheckAccount(s, account);
            if (refusal != null)
            {
                return refusal;
            }
            bool simulation = IsSimulation(account);
            string mode = runtime.Risk.Mode(s.Account, simulation, now);
            if (mode == "off")
            {
                return new FKSRefusal("automation_forbidden", "the mode of the account is off");
            }
            refusal = CheckConnection(s, account);
            FKSContract contract = null;
            if (refusal == null)
            {
                refusal = CheckInstrument(s, now, out instrument, out contract);
            }
            if (refusal == null && !s.IsExit)
            {
                refusal = CheckPrice(t, instrument, contract, simulation);
            }
            if (refusal == null && mode == "relay")
            {
                relayed = Relay(t, now);
                return null;
            }
            if (refusal == null && !s.IsExit)
            {
                refusal = CheckLimits(t, contract, simulation, now);
            }
            if (refusal == null && s.IsExit && OpenQty(s) == 0)
            {
                refusal = new FKSRefusal("bad_field", "FKS holds no position on this instrument" + (s.Entries == null ? "" : " of these entries"));
            }
            if (refusal == null)
            {
                refusal = runtime.Risk.CheckRate(runtime.Clock.TickMs());
            }
            if (refusal == null && FindOrder(account, FKSProtocol.OrderName(s.Id, "E", 1)) != null)
            {
                refusal = new FKSRefusal("duplicate_recovered", "the platform already has an order of this name");
            }
            return refusal;
        }

        private FKSRefusal CheckAccount(FKSSignal s, Account account)
        {
            bool configured = runtime.Config.Accounts.ContainsKey(s.Account);
            if (account == null)
            {
                return configured ? new FKSRefusal("not_connected", "the platform does not list the account yet")
                    : new FKSRefusal("unknown_account", "the platform has no account of this name");
            }
            return configured ? null : new FKSRefusal("account_not_allowed", "the account is not in config.json");
        }

        private FKSRefusal CheckConnection(FKSSignal s, Account account)
        {
            Connection connection = account.Connection;
            if (connection == null || connection.Status != ConnectionStatus.Connected)
            {
                return new FKSRefusal("not_connected", "the order connection of the account is not up");
            }
            if (!settled.Contains(s.Account) && !s.IsExit)
            {
                return new FKSRefusal("not_ready", "the account is connected for less than " + runtime.Config.SettleMs + " ms");
            }
            return connection.PriceStatus != ConnectionStatus.Connected && !s.IsExit ? new FKSRefusal("price_feed_lost", "the price feed of the account is not up") : null;
        }

        private FKSRefusal CheckInstrument(FKSSignal s, long now, out Instrument instrument, out FKSContract contract)
        {
            string root;
            int year;
            int month;
            instrument = null;
            FKSProtocol.ParseContract(s.Instrument, out root, out year, out month);
            contract = FKSContracts.Find(root);
            if (contract == null)
            {
                return new FKSRefusal("unknown_instrument", "no contract specification for " + root);
            }
            if (runtime.Config.Instruments.Count > 0 && !runtime.Config.Instruments.Contains(root))
            {
                return new FKSRefusal("instrument_not_allowed", root + " is not in the list instruments of config.json");
            }
            if (!contract.IsListed(month))
            {
                return new FKSRefusal("unknown_instrument", root + " has no contract of month " + month);
            }
            DateTime day = FKSRisk.TradeDay(now);
            if (!s.IsExit && day >= FKSContracts.NoEntriesFrom(contract, year, month))
            {
                return new FKSRefusal("expired_contract", "the contract is expired or in its roll window; current: " + FKSContracts.Front(contract, day));
            }
            instrument = Instrument.GetInstrument(s.Instrument);
            if (instrument == null)
            {
                return new FKSRefusal("unknown_instrument", "the platform does not know " + s.Instrument);
            }
            if (InstrumentName(instrument) != s.Instrument)
            {
                return new FKSRefusal("unknown_instrument", "the platform returned another contract: " + InstrumentName(instrument));
            }
            decimal tick = (decimal)instrument.MasterInstrument.TickSize;
            decimal point = (decimal)instrument.MasterInstrument.PointValue;
            if (tick != contract.Tick || point != contract.PointValue)
            {
                return new FKSRefusal("instrument_not_allowed", "tick size or point value of the platform differ from the contract specification");
            }
            return ambiguous.Contains(s.Account + "|" + s.Instrument) && !s.IsExit
                ? new FKSRefusal("not_ready", "an order without a name blocks this instrument until an operator confirms") : null;
        }

        private FKSRefusal CheckPrice(FKSTrack t, Instrument instrument, FKSContract contract, bool simulation)
        {
            FKSSignal s = t.Signal;
            decimal tick = contract.Tick;
            long age;
            decimal? last = runtime.LastPrice(instrument, out age);
            if (!simulation && !s.HasStop)
            {
                return new FKSRefusal("no_stop", "a live account needs sl_points or sl_price");
            }
            if (last == null || age > runtime.Config.QuoteMsMax)
            {
                return new FKSRefusal("no_quote", "no last price within " + runtime.Config.QuoteMsMax / 1000 + " s");
            }
            decimal reference = last.Value;
            if (s.Price != null)
            {
                reference = FKSProtocol.EntryPrice(s.Price.Value, tick, s.IsBuy, false);
                t.PriceUsed = reference;
            }
            decimal? stop = null;
            if (s.StopPrice != null)
            {
                stop = FKSProtocol.EntryPrice(s.StopPrice.Value, tick, s.IsBuy, true);
                t.PriceUsed = t.PriceUsed ?? stop;
                reference = s.Price == null ? stop.Value : reference;
            }
            decimal far = Math.Abs(reference - last.Value) / tick;
            if (reference <= 0 || far > runtime.Config.MaxDistanceTicks)
            {
                return new FKSRefusal("too_far", "the price is " + FKSJson.Number(Math.Round(far)) + " ticks from the last price " + FKSJson.Number(last.Value));
            }
            t.SlUsed = ExitPriceOf(s, reference, tick, true);
            t.TpUsed = ExitPriceOf(s, reference, tick, false);
            int sign = s.IsBuy ? 1 : -1;
            if ((t.SlUsed != null && (reference - t.SlUsed.Value) * sign < tick) || (t.TpUsed != null && (t.TpUsed.Value - reference) * sign < tick))
            {
                return new FKSRefusal("bad_bracket", "stop or target is on the wrong side of the entry or nearer than one tick");
            }
            return null;
        }

        /// <summary>Stop or target price for an entry at `fill`; null where the signal has none.</summary>
        private static decimal? ExitPriceOf(FKSSignal s, decimal fill, decimal tick, bool stop)
        {
            decimal? price = stop ? s.SlPrice : s.TpPrice;
            decimal? points = stop ? s.SlPoints : s.TpPoints;
            if (price == null && points == null)
            {
                return null;
            }
            bool below = s.IsBuy == stop;
            decimal asked = price ?? (below ? fill - points.Value : fill + points.Value);
            return FKSProtocol.ExitPrice(asked, tick, s.IsBuy, stop);
        }

        private FKSRefusal CheckLimits(FKSTrack t, FKSContract contract, bool simulation, long now)
        {
            FKSSignal s = t.Signal;
            int exposure = 0;
            Dictionary<string, int> held = PositionsOf(s.Account);
            decimal lots = runtime.Risk.Lots(contract.Root, s.Qty);
            decimal worst = Worst(t, s.Qty, contract);
            foreach (FKSTrack other in active)
            {
                if (other.Signal.Account != s.Account || other.Signal.IsExit || other.IsFinal || other.State == "relayed")
                {
                    continue;
                }
                int working = other.IsEntryDone ? 0 : Math.Max(0, other.Signal.Qty - other.Filled);
                int all = other.Open + working;
                exposure += all;
                lots += runtime.Risk.Lots(other.Signal.Instrument.Split(' ')[0], working);
                if (all > 0 && other.Signal.Instrument == s.Instrument && other.Signal.IsBuy != s.IsBuy)
                {
                    return new FKSRefusal("opposite_position", "FKS holds or works the other side of this instrument");
                }
                worst += Worst(other, working, FKSContracts.Find(other.Signal.Instrument.Split(' ')[0]));
            }
            foreach (KeyValuePair<string, int> position in held)
            {
                lots += runtime.Risk.Lots(position.Key.Split(' ')[0], position.Value);
            }
            return runtime.Risk.CheckEntry(s.Account, s.Qty, exposure, lots, worst, runtime.Values(s.Account), simulation, now);
        }

        /// <summary>Contracts open by instrument: what the platform reports, also what a person opened, or what our executions say if that is more.</summary>
        private Dictionary<string, int> PositionsOf(string name)
        {
            Dictionary<string, int> found = new Dictionary<string, int>(StringComparer.Ordinal);
            foreach (FKSTrack t in active)
            {
                if (t.Signal.Account == name && !t.Signal.IsExit && !t.IsFinal && t.Open > 0)
                {
                    int before;
                    found.TryGetValue(t.Signal.Instrument, out before);
                    found[t.Signal.Instrument] = before + t.Open;
                }
            }
            Account account = runtime.FindAccount(name);
            if (account == null)
            {
                return found;
            }
            lock (account.Positions)
            {
                foreach (Position p in account.Positions)
                {
                    string instrument = InstrumentName(p.Instrument);
                    int ours;
                    found.TryGetValue(instrument ?? "", out ours);
                    if (instrument != null && p.MarketPosition != MarketPosition.Flat)
                    {
                        found[instrument] = Math.Max(ours, p.Quantity);
                    }
                }
            }
            return found;
        }

        /// <summary>True while an entry of this account may still fill.</summary>
        public bool HasWorkingEntry(string account)
        {
            return active.Exists(delegate(FKSTrack t)
            {
                return t.Signal.Account == account && !t.Signal.IsExit && !t.IsFinal && t.State != "relayed" && !t.IsEntryDone;
            });
        }

        /// <summary>True while a signal of this strategy works or is open in the account and contract.</summary>
        public bool IsTrading(string strategy, string account, string instrument)
        {
            return strategy != null && active.Exists(delegate(FKSTrack t)
            {
                return !t.IsFinal && !t.Signal.IsExit && t.Signal.Strategy == strategy && t.Signal.Account == account && t.Signal.Instrument == instrument;
            });
        }

        private static decimal Worst(FKSTrack t, int qty, FKSContract contract)
        {
            if (qty == 0 || t.SlUsed == null || contract == null)
            {
                return 0;
            }
            decimal points = t.Signal.SlPoints ?? Math.Abs((t.PriceUsed ?? t.SlUsed.Value) - t.SlUsed.Value);
            return points * qty * contract.PointValue;
        }

        private FKSObject Relay(FKSTrack t, long now)
        {
            t.State = "relayed";
            runtime.Journal.Append(Intent(t).Set("relay", true));
            tracks[t.Signal.Id] = t;
            active.Add(t);
            FKSObject fields = t.Signal.ToJson().SetIf("price_used", t.PriceUsed).SetIf("sl_used", t.SlUsed).SetIf("tp_used", t.TpUsed);
            afterAnswer.Add(new FKSObject().Set("kind", "relay").Set("fields", fields));
            return Ack(t, false);
        }

        private static FKSObject Intent(FKSTrack t)
        {
            return new FKSObject().Set("r", "intent").Set("id", t.Signal.Id).Set("at_ms", t.IntentMs).Set("signal", t.Signal.ToJson()).Set("content", t.Content)
                .SetIf("price_used", t.PriceUsed).SetIf("sl_used", t.SlUsed).SetIf("tp_used", t.TpUsed);
        }

        /// <summary>Write the intent of an entry to the disk, then submit once. After the intent no branch submits this id again.
        /// An exit acts first: its order is found at the platform where its record was lost.</summary>
        private FKSObject Enter(FKSTrack t, Instrument instrument)
        {
            FKSSignal s = t.Signal;
            runtime.Reached("before_intent");
            if (s.IsExit)
            {
                runtime.Journal.Append(Intent(t));
            }
            else if (!runtime.Journal.Commit(Intent(t), runtime.Clock.TickMs()))
            {
                return FKSProtocol.Nack(s.Id, new FKSRefusal("journal_error", runtime.Journal.Error), runtime.Clock.NowMs());
            }
            tracks[s.Id] = t;
            active.Add(t);
            traded.Add(s.Account + "|" + s.Instrument);
            runtime.Reached("after_intent");
            if (s.IsExit)
            {
                return EnterExit(t);
            }
            FKSRefusal refusal = SubmitEntry(t, instrument, s.Qty);
            if (refusal != null)
            {
                t.State = "nacked";
                t.Refusal = refusal;
                active.Remove(t);
                runtime.Journal.Append(new FKSObject().Set("r", "nack").Set("id", s.Id).Set("code", refusal.Code).Set("detail", refusal.Detail).Set("content", t.Content));
                return FKSProtocol.Nack(s.Id, refusal, runtime.Clock.NowMs());
            }
            if (t.State == "indeterminate")
            {
                return FKSProtocol.Message("indeterminate").Set("id", s.Id).Set("since_ms", t.IntentMs).Set("detail", "Submit threw; the platform may have the order");
            }
            return Ack(t, false);
        }

        /// <summary>Create and submit the order named FKS:id:E. A refusal means that Submit was not called.</summary>
        private FKSRefusal SubmitEntry(FKSTrack t, Instrument instrument, int qty)
        {
            FKSSignal s = t.Signal;
            Account account = runtime.FindAccount(s.Account);
            string name = FKSProtocol.OrderName(s.Id, "E", 1);
            Register(t, name, qty);
            Order order;
            try
            {
                order = MakeEntry(t, account, instrument, name, qty);
            }
            catch (Exception cause)
            {
                return new FKSRefusal("submit_failed", "CreateOrder failed: " + cause.Message);
            }
            if (order == null)
            {
                return new FKSRefusal("submit_failed", "CreateOrder returned nothing");
            }
            runtime.Reached("before_submit");
            try
            {
                account.Submit(new[] { order });
            }
            catch (Exception cause)
            {
                t.State = "indeterminate";
                connectedTick[s.Account] = runtime.Clock.TickMs();
                settled.Remove(s.Account);
                runtime.Log("Submit of " + name + " threw: " + cause.Message, true);
                return null;
            }
            runtime.Reached("after_submit");
            t.State = "submitted";
            runtime.Journal.Append(new FKSObject().Set("r", "submitted").Set("id", s.Id));
            if (s.IsExit)
            {
                AnswerOnce(t, Ack(t, false));
                EmitSignal(t, "submitted", null, null);
            }
            else
            {
                afterAnswer.Add(new FKSObject().Set("kind", "signal").Set("fields", SignalFields(t, "submitted", null, null)));
            }
            return null;
        }

        private static Order MakeEntry(FKSTrack t, Account account, Instrument instrument, string name, int qty)
        {
            FKSSignal s = t.Signal;
            OrderAction action = s.IsExit ? (t.EndAs == "sell" ? OrderAction.Sell : OrderAction.BuyToCover) : s.IsBuy ? OrderAction.Buy : OrderAction.SellShort;
            OrderType type = s.Type == "limit" ? OrderType.Limit : s.Type == "stop" ? OrderType.StopMarket : s.Type == "stop_limit" ? OrderType.StopLimit : OrderType.Market;
            TimeInForce tif = s.Tif == "gtc" ? TimeInForce.Gtc : s.Tif == "ioc" ? TimeInForce.Ioc : TimeInForce.Day;
            decimal tick = (decimal)instrument.MasterInstrument.TickSize;
            double limit = s.Price == null ? 0 : (double)FKSProtocol.EntryPrice(s.Price.Value, tick, s.IsBuy, false);
            double stop = s.StopPrice == null ? 0 : (double)FKSProtocol.EntryPrice(s.StopPrice.Value, tick, s.IsBuy, true);
            return account.CreateOrder(instrument, action, type, OrderEntry.Automated, tif, qty, limit, stop, "", name, NinjaTrader.Core.Globals.MaxDate, null);
        }

        // ================= exit signals =================

        private int OpenQty(string account, string instrument)
        {
            int sum = 0;
            foreach (FKSTrack t in active)
            {
                sum += !t.Signal.IsExit && t.Signal.Account == account && t.Signal.Instrument == instrument ? t.Open : 0;
            }
            return sum;
        }

        /// <summary>Contracts that an exit may close.</summary>
        private int OpenQty(FKSSignal exit)
        {
            int sum = 0;
            foreach (FKSTrack t in Closed(new FKSTrack { Signal = exit }))
            {
                sum += t.Open;
            }
            return sum;
        }

        /// <summary>Begin an exit: cancel the protective orders; the market order follows when none of them is live.</summary>
        private FKSObject EnterExit(FKSTrack exit)
        {
            exit.State = "submitted";
            exit.ExitTick = runtime.Clock.TickMs();
            foreach (FKSTrack t in Closed(exit))
            {
                t.ExitId = exit.Signal.Id;
                exit.EndAs = t.Signal.IsBuy ? "sell" : "buy";
            }
            StepExit(exit);
            return null; // the ack follows Submit of the market order
        }

        private static void AnswerOnce(FKSTrack exit, FKSObject answer)
        {
            Action<FKSObject> found = exit.Answer;
            exit.Answer = null;
            if (found != null)
            {
                found(answer);
            }
        }

        private void StepExit(FKSTrack exit)
        {
            if (exit.ExitSubmitted)
            {
                return;
            }
            bool live = false;
            foreach (FKSOrder o in Orders(exit.Signal.Account, exit.Signal.Instrument))
            {
                if (o.Parts.Id != exit.Signal.Id && exit.Signal.Closes(o.Parts.Id) && o.Remaining > 0 && !o.Missing)
                {
                    live = true;
                    CancelOnce(o);
                }
            }
            if (live && runtime.Clock.TickMs() - exit.ExitTick < ExitMsMax)
            {
                return;
            }
            exit.ExitSubmitted = true;
            if (live && exit.Signal.Entries != null)
            {
                EndExit(exit, new FKSRefusal("timeout", "protective orders were not cancelled within 5 s; they protect again")); // not at the cost of the others
                return;
            }
            if (live)
            {
                AnswerOnce(exit, Ack(exit, false));
                EmitRisk(exit, "exit_blocked", "protective orders were not cancelled within 5 s: the instrument is flattened", null, null);
                StartFlatten(exit.Signal.Account, new List<string> { exit.Signal.Instrument }, "exit " + exit.Signal.Id, null);
                return;
            }
            int open = OpenQty(exit.Signal);
            int qty = exit.Signal.Qty > 0 ? Math.Min(exit.Signal.Qty, open) : open;
            if (qty == 0)
            {
                AnswerOnce(exit, Ack(exit, false));
                Finish(exit, "closed", null, "nothing was open any more");
                return;
            }
            FKSRefusal refusal = SubmitEntry(exit, Instrument.GetInstrument(exit.Signal.Instrument), qty);
            if (refusal != null)
            {
                EndExit(exit, refusal);
                if (exit.Signal.Entries == null)
                {
                    StartFlatten(exit.Signal.Account, new List<string> { exit.Signal.Instrument }, "exit " + exit.Signal.Id, null);
                }
            }
        }

        /// <summary>End an exit without its market order: what it would have closed is protected again.</summary>
        private void EndExit(FKSTrack exit, FKSRefusal refusal)
        {
            AnswerOnce(exit, FKSProtocol.Nack(exit.Signal.Id, refusal, runtime.Clock.NowMs()));
            Finish(exit, "rejected", refusal.Code, refusal.Detail);
        }

        // ================= platform events =================

        private List<FKSOrder> Orders(string account, string instrument)
        {
            List<FKSOrder> found = new List<FKSOrder>();
            foreach (FKSOrder o in orders.Values)
            {
                if (o.Account == account && (instrument == null || o.Instrument == instrument))
                {
                    found.Add(o);
                }
            }
            return found;
        }

        public void OnOrder(FKSOrderCopy c)
        {
            FKSName parts = FKSProtocol.ParseName(c.Name);
            if (parts == null || c.Account == null)
            {
                return;
            }
            FKSTrack t = TrackOf(c.Account, parts, c.Instrument, c.Action, c.Qty, c.Limit, c.Time);
            FKSOrder o;
            if (!orders.TryGetValue(c.Account + "|" + c.Name, out o))
            {
                o = Register(t, c.Name, c.Qty);
            }
            if (t.State == "indeterminate" || t.State == "ambiguous")
            {
                Adopt(t, c.State, c.Filled);
            }
            bool late = o.IsTerminal && !(c.State == OrderState.Filled && o.State == OrderState.Cancelled);
            if (late || o.Content == c.Content)
            {
                return; // a late or repeated update says nothing new
            }
            o.Content = c.Content;
            o.Missing = false;
            if (o.State != c.State)
            {
                o.SinceTick = runtime.Clock.TickMs();
            }
            o.State = c.State;
            o.OrderId = c.OrderId;
            o.Qty = c.Qty;
            o.Filled = c.Filled;
            if (c.Error != null && !o.IsTerminal)
            {
                o.CancelTick = c.Error == "UnableToCancelOrder" && o.CancelTick >= 0 ? runtime.Clock.TickMs() : o.CancelTick;
            }
            if (c.State != OrderState.ChangePending && c.State != OrderState.ChangeSubmitted)
            {
                o.ChangeTick = -1;
            }
            EmitOrder(c, parts);
            if (c.State == OrderState.Unknown)
            {
                EmitRisk(t, "order_unknown", c.Name + ": the broker does not report a state", null, null);
            }
            if (parts.Role == "E")
            {
                OnEntryState(t, o, c);
            }
            else if (c.State == OrderState.Rejected && parts.Role == "S")
            {
                t.StopRejected = true;
            }
            Review(t);
            FKSTrack exit;
            if (t.ExitId != null && tracks.TryGetValue(t.ExitId, out exit))
            {
                Review(exit);
            }
        }

        private void OnEntryState(FKSTrack t, FKSOrder o, FKSOrderCopy c)
        {
            t.WasLive = t.WasLive || o.Protects || c.State == OrderState.TriggerPending;
            if (!o.IsTerminal)
            {
                return;
            }
            t.IsEntryDone = true;
            if (t.Filled > 0 || c.Filled > 0 || t.IsFinal)
            {
                return;
            }
            if (c.State == OrderState.Rejected)
            {
                Finish(t, "rejected", c.Error ?? "OrderRejected", c.Comment);
            }
            else if (c.State == OrderState.Cancelled)
            {
                Finish(t, t.EndAs == "expired" ? "expired" : "cancelled", null, null);
            }
        }

        /// <summary>The track of an order name; an order that the journal does not know makes a recovered one.</summary>
        private FKSTrack TrackOf(string account, FKSName parts, string instrument, OrderAction action, int qty, double limit, DateTime time)
        {
            FKSTrack t;
            if (tracks.TryGetValue(parts.Id, out t) && t.Signal != null)
            {
                return t;
            }
            bool entry = parts.Role == "E";
            bool buy = entry ? action == OrderAction.Buy || action == OrderAction.BuyToCover : action == OrderAction.Sell || action == OrderAction.SellShort;
            FKSSignal s = new FKSSignal();
            s.Id = parts.Id;
            s.Account = account;
            s.Instrument = instrument;
            bool exit = entry && (action == OrderAction.Sell || action == OrderAction.BuyToCover); // an entry is Buy or SellShort
            s.Action = exit ? "exit" : buy ? "buy" : "sell";
            s.Qty = qty;
            s.Type = "market";
            s.Tif = "day";
            s.CreatedMs = runtime.Clock.NowMs();
            s.ValidUntil = s.CreatedMs + FKSProtocol.ValidityMaxMs;
            t = new FKSTrack { Signal = s, State = "submitted", IsRecovered = true, IntentMs = s.CreatedMs, WasLive = true, ExitSubmitted = exit };
            tracks[parts.Id] = t;
            active.Add(t);
            traded.Add(account + "|" + instrument);
            runtime.Journal.Append(Intent(t).Set("recovered", true));
            runtime.Journal.Append(new FKSObject().Set("r", "submitted").Set("id", parts.Id));
            return t;
        }

        private void Adopt(FKSTrack t, OrderState state, int filled)
        {
            t.State = "submitted";
            t.WasLive = true;
            t.ExitSubmitted = true;
            runtime.Journal.Append(new FKSObject().Set("r", "submitted").Set("id", t.Signal.Id));
            ambiguous.Remove(t.Signal.Account + "|" + t.Signal.Instrument);
            if (filled > 0 && !t.Signal.IsExit)
            {
                t.State = "open";
            }
            bool ended = filled == 0 && (state == OrderState.Cancelled || state == OrderState.Rejected);
            if (!ended)
            {
                EmitSignal(t, t.Reported, null, "found at the platform after a restart");
            }
        }

        public void OnExecution(FKSExecutionCopy c)
        {
            FKSName parts = FKSProtocol.ParseName(c.Name);
            if (parts == null)
            {
                parts = PartsByOrderId(c);
            }
            if (c.Operation != Operation.Add)
            {
                EmitExecution(c, parts, c.Operation == Operation.Update ? "update" : "remove", false);
                return;
            }
            if (runtime.Journal.HasExecution(c.Account, c.ExecutionId))
            {
                return; // the platform hands executions over again after a reconnect
            }
            if (parts == null)
            {
                if (IsTraded(c.Account, c.Instrument))
                {
                    EmitExecution(c, null, "add", false);
                }
                return;
            }
            if (c.IsSod)
            {
                EmitExecution(c, parts, "add", false);
                return;
            }
            FKSTrack t = TrackOf(c.Account, parts, c.Instrument, c.Action, c.Qty, 0, c.Time);
            if (IsSuspect(c, parts))
            {
                EmitExecution(c, parts, "add", true);
                EmitRisk(t, "exec_suspect", "execution " + c.ExecutionId + " repeats an earlier one under another id; it is not counted", null, null);
                return;
            }
            if (t.State == "indeterminate" || t.State == "ambiguous")
            {
                Adopt(t, OrderState.PartFilled, c.Qty);
            }
            EmitExecution(c, parts, "add", false);
            FKSLot lot = Book(t, parts.Role, parts.Lot, c.Qty, (decimal)c.Price, FKSProtocol.OrderName(parts.Id, parts.Role, parts.Lot));
            if (t.IsFinal)
            {
                active.Add(t); // a fill after the reported end: it needs its bracket as every fill
                t.State = "submitted";
            }
            if (parts.Role == "E" && t.State != "open" && t.State != "flattening" && !t.Signal.IsExit)
            {
                t.State = "open";
                EmitSignal(t, "open", null, null);
            }
            if (IsFlattening(t))
            {
                FlattenAgain(t, parts.Role);
            }
            else if (lot != null && t.ExitId == null && knows.Contains(t.Signal.Account))
            {
                PlaceExits(t, lot);
            }
            Review(t);
            if (t.Signal.IsExit)
            {
                foreach (FKSTrack other in active.ToArray())
                {
                    Review(other);
                }
            }
        }

        private FKSName PartsByOrderId(FKSExecutionCopy c)
        {
            foreach (FKSOrder o in orders.Values)
            {
                if (o.Account == c.Account && !string.IsNullOrEmpty(c.OrderId) && o.OrderId == c.OrderId)
                {
                    return o.Parts;
                }
            }
            return null;
        }

        /// <summary>Same order, price, quantity and time under a new id, and more than the order can have filled.</summary>
        private bool IsSuspect(FKSExecutionCopy c, FKSName parts)
        {
            string key = c.Account + "|" + FKSProtocol.OrderName(parts.Id, parts.Role, parts.Lot);
            string form = key + "|" + c.Price.ToString(CultureInfo.InvariantCulture) + "|" + c.Qty + "|" + c.Time.Ticks;
            bool seen = executionForms.ContainsKey(form);
            executionForms[form] = c.ExecutionId;
            int before;
            booked.TryGetValue(key, out before);
            FKSOrder o;
            int most = c.OrderFilled >= 0 ? c.OrderFilled : orders.TryGetValue(key, out o) ? o.Qty : int.MaxValue;
            return seen && before + c.Qty > most;
        }

        public void OnPosition(string account, string instrument, string side, int qty, double average)
        {
            if (!IsTraded(account, instrument))
            {
                return;
            }
            runtime.Emit("position", new FKSObject().Set("account", account).Set("instrument", instrument).Set("side", side).Set("qty", qty).Set("avg", average));
            StepFlattens();
        }

        // ================= exits and the protection invariant =================

        private static string NewOco()
        {
            return Guid.NewGuid().ToString("N");
        }

        /// <summary>Submit the OCO pair of one execution lot, then record it. No name is submitted twice: after a crash the pair may
        /// be at the platform and not in the journal.</summary>
        private void PlaceExits(FKSTrack t, FKSLot lot)
        {
            FKSSignal s = t.Signal;
            FKSContract contract = FKSContracts.Find(s.Instrument.Split(' ')[0]);
            Account account = runtime.FindAccount(s.Account);
            if (lot.IsPlaced || contract == null || account == null)
            {
                return;
            }
            decimal? stop = ExitPriceOf(s, lot.Price, contract.Tick, true);
            decimal? target = lot.IsRepair ? null : ExitPriceOf(s, lot.Price, contract.Tick, false);
            if (stop == null && target == null)
            {
                return;
            }
            lot.IsPlaced = true;
            string oco = stop != null && target != null ? NewOco() : "";
            FKSObject record = new FKSObject().Set("r", "exits").Set("id", s.Id).Set("lot", lot.Number).Set("qty", lot.Open).SetIf("stop", stop).SetIf("target", target)
                .Set("oco", oco).Set("repair", lot.IsRepair);
            if (FindOrder(account, FKSProtocol.OrderName(s.Id, "S", lot.Number)) != null || FindOrder(account, FKSProtocol.OrderName(s.Id, "T", lot.Number)) != null)
            {
                runtime.Journal.Append(record);
                return;
            }
            runtime.Reached("before_exits");
            List<Order> pair = new List<Order>();
            if (stop != null)
            {
                AddExit(pair, t, "S", lot, OrderType.StopMarket, 0, (double)stop.Value, oco);
            }
            if (target != null)
            {
                AddExit(pair, t, "T", lot, OrderType.Limit, (double)target.Value, 0, oco);
            }
            try
            {
                if (pair.Count > 0)
                {
                    account.Submit(pair);
                }
            }
            catch (Exception cause)
            {
                t.StopRejected = true;
                runtime.Log("Submit of the exits of " + s.Id + " threw: " + cause.Message, true);
            }
            runtime.Reached("after_exits");
            runtime.Journal.Append(record);
        }

        /// <summary>Protect fills that the journal did not know at the start, now that the platform lists what the last process submitted.</summary>
        private void PlaceMissing(string account)
        {
            foreach (FKSTrack t in active.ToArray())
            {
                bool skipped = t.Signal.Account != account || t.Signal.IsExit || t.IsFinal || t.ExitId != null || IsFlattening(t);
                foreach (FKSLot lot in skipped ? new FKSLot[0] : t.Lots.ToArray())
                {
                    int live = 0;
                    foreach (FKSOrder o in ExitsOf(t, t.Signal.HasStop ? "S" : "T"))
                    {
                        live += o.Missing ? 0 : o.Remaining;
                    }
                    if (!lot.IsPlaced && lot.Open > 0 && lot.Open <= t.Open - live && IsHeld(t))
                    {
                        PlaceExits(t, lot);
                    }
                }
            }
        }

        private void AddExit(List<Order> pair, FKSTrack t, string role, FKSLot lot, OrderType type, double limit, double stop, string oco)
        {
            FKSSignal s = t.Signal;
            string name = FKSProtocol.OrderName(s.Id, role, lot.Number);
            Register(t, name, lot.Open);
            Order made = null;
            try
            {
                Account account = runtime.FindAccount(s.Account);
                TimeInForce tif = runtime.Config.DayOnlyAccounts.Contains(s.Account) ? TimeInForce.Day : TimeInForce.Gtc;
                made = account.CreateOrder(Instrument.GetInstrument(s.Instrument), s.IsBuy ? OrderAction.Sell : OrderAction.BuyToCover, type, OrderEntry.Automated, tif,
                    lot.Open, limit, stop, oco, name, NinjaTrader.Core.Globals.MaxDate, null);
            }
            catch (Exception cause)
            {
                runtime.Log("CreateOrder of " + name + " threw: " + cause.Message, true);
            }
            if (made != null)
            {
                pair.Add(made);
                return;
            }
            orders[s.Account + "|" + name].State = OrderState.Rejected;
            t.StopRejected = t.StopRejected || role == "S";
        }

        /// <summary>Check one signal: closed, protected, and no exit larger than what is open.</summary>
        private void Review(FKSTrack t)
        {
            if (t.IsFinal || t.State == "relayed" || t.State == "indeterminate" || t.State == "ambiguous" || t.State == "intent")
            {
                return;
            }
            if (t.Signal.IsExit)
            {
                StepExit(t);
                FKSOrder own;
                bool ended = orders.TryGetValue(t.Signal.Account + "|" + FKSProtocol.OrderName(t.Signal.Id, "E", 1), out own) && own.IsTerminal && t.Filled >= own.Filled;
                if (ended && t.ExitSubmitted && !t.IsFinal)
                {
                    Finish(t, "closed", null, null);
                }
                return;
            }
            if (t.IsEntryDone && t.Filled > 0 && t.ExitFilled >= t.Filled && !EntryOwesFills(t))
            {
                CancelExits(t);
                Finish(t, "closed", null, null);
                return;
            }
            if (!IsFlattening(t) && t.ExitId == null)
            {
                if (!EntryOwesFills(t))
                {
                    CheckSurplus(t); // the stop of a fill that is still to be reported is no surplus
                }
                CheckShortage(t);
            }
        }

        /// <summary>Signals that an ended exit left open take their protection back.</summary>
        private void Released(FKSTrack exit)
        {
            foreach (FKSTrack t in active)
            {
                if (t.ExitId == exit.Signal.Id)
                {
                    t.ExitId = null;
                }
            }
        }

        /// <summary>True while the order reports more fills than executions have been booked.</summary>
        private bool EntryOwesFills(FKSTrack t)
        {
            FKSOrder o;
            return orders.TryGetValue(t.Signal.Account + "|" + FKSProtocol.OrderName(t.Signal.Id, "E", 1), out o) && o.Filled > t.Filled;
        }

        private void CheckShortage(FKSTrack t)
        {
            bool wantsStop = t.Signal.HasStop || t.IsRecovered;
            int live = 0;
            long now = runtime.Clock.TickMs();
            foreach (FKSOrder o in ExitsOf(t, "S"))
            {
                bool pending = o.IsPending && !o.Missing && now - o.SinceTick <= PendingMsMax;
                live += (o.Protects && o.CancelTick < 0) || pending ? o.Remaining : 0;
            }
            if (!wantsStop || t.GaveUp || live >= t.Open)
            {
                t.ShortTick = -1;
                t.StopRejected = false;
                return;
            }
            if (t.ShortTick < 0)
            {
                t.ShortTick = now;
            }
            bool waited = now - t.ShortTick > ShortMsMax && settled.Contains(t.Signal.Account) && IsHeld(t);
            if ((!t.StopRejected && !waited) || !IsOrderFeedUp(t.Signal.Account))
            {
                return;
            }
            bool repairable = t.Signal.HasStop && t.Repairs == 0;
            t.StopRejected = false;
            t.ShortTick = now;
            if (repairable)
            {
                t.Repairs++;
                Repair(t, t.Open - live);
                return;
            }
            t.GaveUp = true;
            EmitRisk(t, "unprotected", "no stop for " + (t.Open - live) + " contracts: the instrument is flattened", t.Open - live, null);
            StartFlatten(t.Signal.Account, new List<string> { t.Signal.Instrument }, "unprotected", null);
        }

        /// <summary>True while the platform holds what the signals of this instrument opened: a stop for more would open a reverse position.</summary>
        private bool IsHeld(FKSTrack t)
        {
            Account account = runtime.FindAccount(t.Signal.Account);
            int held = account == null ? 0 : Held(account, t.Signal.Instrument);
            return (t.Signal.IsBuy ? held : -held) >= OpenQty(t.Signal.Account, t.Signal.Instrument);
        }

        private void Repair(FKSTrack t, int qty)
        {
            int number = 1;
            foreach (FKSLot other in t.Lots)
            {
                number = Math.Max(number, other.Number + 1);
            }
            decimal price = t.Filled == 0 ? t.PriceUsed ?? 0 : t.FilledValue / t.Filled;
            FKSLot lot = new FKSLot { Number = number, Qty = qty, Price = price, IsRepair = true };
            t.Lots.Add(lot);
            EmitRisk(t, "stop_repaired", "a stop for " + qty + " contracts is submitted again", qty, null);
            PlaceExits(t, lot);
        }

        private static List<FKSOrder> ExitsOf(FKSTrack t, string role)
        {
            return t.Exits.FindAll(delegate(FKSOrder o) { return o.Parts.Role == role; });
        }

        /// <summary>Exits larger than the open quantity would open a reverse position: reduce them after a grace of 1 s.</summary>
        private void CheckSurplus(FKSTrack t)
        {
            bool surplus = false;
            foreach (string role in new[] { "S", "T" })
            {
                int sum = 0;
                foreach (FKSOrder o in ExitsOf(t, role))
                {
                    sum += o.Missing ? 0 : o.Remaining;
                }
                surplus = surplus || sum > t.Open;
            }
            long now = runtime.Clock.TickMs();
            if (!surplus)
            {
                t.SurplusTick = -1;
                return;
            }
            if (t.SurplusTick < 0)
            {
                t.SurplusTick = now;
            }
            if (now - t.SurplusTick < SurplusMsMax)
            {
                return;
            }
            t.SurplusTick = now;
            Reduce(t, "S");
            Reduce(t, "T");
        }

        private void Reduce(FKSTrack t, string role)
        {
            int left = t.Open;
            foreach (FKSOrder o in ExitsOf(t, role))
            {
                FKSLot lot = t.Lots.Find(delegate(FKSLot l) { return l.Number == o.Parts.Lot; });
                int wanted = lot == null ? Math.Min(left, o.Remaining) : Math.Min(Math.Min(lot.Open, left), o.Remaining);
                left -= wanted;
                if (o.Remaining == 0 || wanted == o.Remaining || o.Missing)
                {
                    continue;
                }
                if (wanted == 0)
                {
                    CancelOnce(o);
                }
                else
                {
                    ChangeQty(o, o.Filled + wanted);
                }
            }
        }

        private void CancelExits(FKSTrack t)
        {
            foreach (string role in new[] { "S", "T" })
            {
                foreach (FKSOrder o in ExitsOf(t, role))
                {
                    if (o.Remaining > 0)
                    {
                        CancelOnce(o);
                    }
                }
            }
        }

        // ================= calls =================

        /// <summary>The platform's order of this name, looked up again each time: objects change after a reconnect.</summary>
        private static Order FindOrder(Account account, string name)
        {
            Order found = null;
            lock (account.Orders)
            {
                foreach (Order o in account.Orders)
                {
                    if (o.Name == name)
                    {
                        found = o;
                    }
                }
            }
            return found;
        }

        private bool CancelOnce(FKSOrder o)
        {
            long now = runtime.Clock.TickMs();
            bool asked = o.CancelTick >= 0 && now - o.CancelTick < RepeatMs;
            bool underway = o.State == OrderState.CancelPending || o.State == OrderState.CancelSubmitted;
            if (asked || underway || o.IsTerminal)
            {
                return false;
            }
            Account account = runtime.FindAccount(o.Account);
            Order order = account == null ? null : FindOrder(account, o.Name);
            if (order == null)
            {
                return false;
            }
            o.CancelTick = now;
            try
            {
                account.Cancel(new[] { order });
            }
            catch (Exception cause)
            {
                runtime.Log("Cancel of " + o.Name + " threw: " + cause.Message, true);
            }
            return true;
        }

        private void ChangeQty(FKSOrder o, int qty)
        {
            Change(o, delegate(Order order) { order.QuantityChanged = qty; });
        }

        /// <summary>Ask for a change unless one is under way; false where it was not sent.</summary>
        private bool Change(FKSOrder o, Action<Order> set)
        {
            long now = runtime.Clock.TickMs();
            bool underway = o.State == OrderState.ChangePending || o.State == OrderState.ChangeSubmitted || (o.ChangeTick >= 0 && now - o.ChangeTick < RepeatMs);
            Account account = runtime.FindAccount(o.Account);
            Order order = account == null || underway || o.IsTerminal ? null : FindOrder(account, o.Name);
            if (order == null)
            {
                return false;
            }
            o.ChangeTick = now;
            try
            {
                set(order);
                account.Change(new[] { order });
                return true;
            }
            catch (Exception cause)
            {
                runtime.Log("Change of " + o.Name + " threw: " + cause.Message, true);
                return false;
            }
        }

        // ================= requests =================

        public FKSObject Query(string rid, string id)
        {
            FKSTrack t;
            FKSObject made = FKSProtocol.Message("sigstate").Set("rid", rid).Set("id", id);
            if (!FKSProtocol.IsId(id) || !tracks.TryGetValue(id, out t))
            {
                return made.Set("state", IsAtPlatform(id) ? "indeterminate" : "unknown_id").Set("filled", 0).Set("avg_price", null);
            }
            made.Set("state", t.Reported).Set("filled", t.Filled).Set("avg_price", t.Filled == 0 ? null : (object)(t.FilledValue / t.Filled));
            return t.Refusal == null ? made : made.Set("code", t.Refusal.Code);
        }

        private bool IsAtPlatform(string id)
        {
            foreach (string name in runtime.Config.Accounts.Keys)
            {
                Account account = runtime.FindAccount(name);
                if (account != null && FindOrder(account, FKSProtocol.OrderName(id, "E", 1)) != null)
                {
                    return true;
                }
            }
            return false;
        }

        public FKSObject Cancel(string rid, string id)
        {
            FKSTrack t;
            if (!tracks.TryGetValue(id, out t))
            {
                return FKSProtocol.Refused(rid, new FKSRefusal("unknown_id", "no signal of this id"));
            }
            FKSOrder o = null;
            if (t.Signal != null)
            {
                orders.TryGetValue(t.Signal.Account + "|" + FKSProtocol.OrderName(id, "E", 1), out o);
            }
            if (t.IsFinal || t.IsEntryDone || o == null || o.IsTerminal || t.State == "relayed")
            {
                return FKSProtocol.Refused(rid, new FKSRefusal("nothing_to_do", "the entry is not working"));
            }
            if (!IsOrderFeedUp(t.Signal.Account))
            {
                return FKSProtocol.Refused(rid, new FKSRefusal("not_connected", "the order connection of the account is not up"));
            }
            t.EndAs = "cancelled";
            CancelOnce(o);
            return FKSProtocol.Result(rid, true);
        }

        public FKSObject Modify(string rid, FKSObject m)
        {
            FKSTrack t;
            if (!tracks.TryGetValue(m.Text("id"), out t) || t.Signal == null)
            {
                return FKSProtocol.Refused(rid, new FKSRefusal("unknown_id", "no signal of this id"));
            }
            FKSContract contract = FKSContracts.Find(t.Signal.Instrument.Split(' ')[0]);
            if (t.Open == 0 || contract == null)
            {
                return FKSProtocol.Refused(rid, new FKSRefusal("nothing_to_do", "the signal has no open position"));
            }
            decimal? stop = m.Decimal("sl_price");
            decimal? target = m.Decimal("tp_price");
            if (stop != null)
            {
                stop = FKSProtocol.ExitPrice(stop.Value, contract.Tick, t.Signal.IsBuy, true);
            }
            if (target != null)
            {
                target = FKSProtocol.ExitPrice(target.Value, contract.Tick, t.Signal.IsBuy, false);
            }
            FKSRefusal refusal = CheckModify(t, stop, target);
            if (refusal != null)
            {
                return FKSProtocol.Refused(rid, refusal);
            }
            bool sent = true;
            foreach (FKSOrder o in ExitsOf(t, "S"))
            {
                sent = (stop == null || o.Remaining == 0 || Change(o, delegate(Order order) { order.StopPriceChanged = (double)stop.Value; })) && sent;
            }
            foreach (FKSOrder o in ExitsOf(t, "T"))
            {
                sent = (target == null || o.Remaining == 0 || Change(o, delegate(Order order) { order.LimitPriceChanged = (double)target.Value; })) && sent;
            }
            if (!sent)
            {
                return FKSProtocol.Refused(rid, new FKSRefusal("not_ready", "another change of an exit is under way; send the request again"));
            }
            if (stop != null)
            {
                t.Signal.SlPrice = stop; // a repair uses the price that was agreed last
                t.Signal.SlPoints = null;
            }
            return FKSProtocol.Result(rid, true);
        }

        private FKSRefusal CheckModify(FKSTrack t, decimal? stop, decimal? target)
        {
            int sign = t.Signal.IsBuy ? 1 : -1;
            foreach (FKSOrder o in ExitsOf(t, "S"))
            {
                Account account = runtime.FindAccount(o.Account);
                Order order = account == null ? null : FindOrder(account, o.Name);
                bool widens = stop != null && order != null && o.Remaining > 0 && (stop.Value - (decimal)order.StopPrice) * sign < 0;
                if (widens && !runtime.Config.AllowWiden)
                {
                    return new FKSRefusal("bad_bracket", "a stop may be moved only towards profit");
                }
            }
            long age;
            decimal? last = runtime.LastPrice(Instrument.GetInstrument(t.Signal.Instrument), out age);
            bool wrong = last != null && ((stop != null && (last.Value - stop.Value) * sign <= 0) || (target != null && (target.Value - last.Value) * sign <= 0));
            return wrong ? new FKSRefusal("bad_bracket", "the price is on the wrong side of the last price " + FKSJson.Number(last.Value)) : null;
        }

        /// <summary>Cancel all working entries, for a client that is lost. Protective orders stay.</summary>
        public void CancelEntries(string reason)
        {
            foreach (FKSTrack t in active.ToArray())
            {
                FKSOrder o;
                bool working = !t.IsFinal && !t.IsEntryDone && !t.Signal.IsExit && t.State != "relayed"
                    && orders.TryGetValue(t.Signal.Account + "|" + FKSProtocol.OrderName(t.Signal.Id, "E", 1), out o) && !o.IsTerminal && CancelOnce(o);
                if (working)
                {
                    t.EndAs = "cancelled";
                    runtime.Log("entry of " + t.Signal.Id + " cancelled: " + reason, false);
                }
            }
        }

        // ================= flatten =================

        private sealed class FKSFlatten
        {
            public string Account;
            public List<string> Instruments;
            public string Reason;
            public Action<bool, List<object>, string> Done;
            public long StartTick;
            public long CallTick;

            public bool Covers(string instrument)
            {
                return Instruments.Contains(instrument);
            }
        }

        public bool IsFlattening(FKSTrack t)
        {
            return flattens.Exists(delegate(FKSFlatten f) { return f.Account == t.Signal.Account && f.Covers(t.Signal.Instrument); });
        }

        private bool IsOrderFeedUp(string name)
        {
            Account account = runtime.FindAccount(name);
            return account != null && account.Connection != null && account.Connection.Status == ConnectionStatus.Connected;
        }

        /// <summary>Cancel entries and close positions; `done` gets (flat, remaining, code) when flat or after 30 s. `instruments` null = all.</summary>
        public void StartFlatten(string name, List<string> instruments, string reason, Action<bool, List<object>, string> done)
        {
            StartFlatten(name, instruments, reason, done, false);
        }

        /// <summary>As above; one that a limit or the kill latch demands is repeated when a lost connection is up again.</summary>
        public void StartFlatten(string name, List<string> instruments, string reason, Action<bool, List<object>, string> done, bool isDemanded)
        {
            Account account = runtime.FindAccount(name);
            if (account == null || !IsOrderFeedUp(name))
            {
                if (isDemanded)
                {
                    demanded[name] = reason;
                }
                if (done != null)
                {
                    done(false, account == null ? new List<object>() : Remaining(account, instruments), "not_connected");
                }
                return;
            }
            List<string> chosen = instruments ?? Touched(account);
            if (chosen.Count == 0)
            {
                if (done != null)
                {
                    done(true, new List<object>(), null);
                }
                return;
            }
            FKSFlatten f = new FKSFlatten { Account = name, Instruments = chosen, Reason = reason, Done = done, StartTick = runtime.Clock.TickMs() };
            flattens.Add(f);
            foreach (FKSOrder o in Orders(name, null))
            {
                if (o.Parts.Role == "E" && f.Covers(o.Instrument) && o.Remaining > 0)
                {
                    CancelOnce(o);
                }
            }
            CallFlatten(f);
        }

        /// <summary>Instruments of the account with a position or a live order, ours or not.</summary>
        private static List<string> Touched(Account account)
        {
            List<string> found = new List<string>();
            lock (account.Positions)
            {
                foreach (Position p in account.Positions)
                {
                    Add(found, p.MarketPosition == MarketPosition.Flat ? null : InstrumentName(p.Instrument));
                }
            }
            lock (account.Orders)
            {
                foreach (Order o in account.Orders)
                {
                    Add(found, Order.IsTerminalState(o.OrderState) ? null : InstrumentName(o.Instrument));
                }
            }
            return found;
        }

        private static void Add(List<string> found, string name)
        {
            if (name != null && !found.Contains(name))
            {
                found.Add(name);
            }
        }

        private void CallFlatten(FKSFlatten f)
        {
            f.CallTick = runtime.Clock.TickMs();
            List<Instrument> found = new List<Instrument>();
            foreach (string name in f.Instruments)
            {
                Instrument instrument = Instrument.GetInstrument(name);
                if (instrument != null)
                {
                    found.Add(instrument);
                }
            }
            try
            {
                runtime.FindAccount(f.Account).Flatten(found);
            }
            catch (Exception cause)
            {
                runtime.Log("Flatten of " + f.Account + " threw: " + cause.Message, true);
            }
        }

        /// <summary>An entry filled while its instrument is flattened: close it too instead of placing exits.</summary>
        private void FlattenAgain(FKSTrack t, string role)
        {
            FKSFlatten f = flattens.Find(delegate(FKSFlatten other) { return other.Account == t.Signal.Account && other.Covers(t.Signal.Instrument); });
            if (role == "E" && !t.Signal.IsExit)
            {
                CallFlatten(f);
            }
        }

        private static List<object> Remaining(Account account, List<string> instruments)
        {
            List<object> found = new List<object>();
            lock (account.Positions)
            {
                foreach (Position p in account.Positions)
                {
                    string name = InstrumentName(p.Instrument);
                    if (p.MarketPosition != MarketPosition.Flat && p.Quantity != 0 && (instruments == null || instruments.Contains(name)))
                    {
                        found.Add(new FKSObject().Set("instrument", name).Set("side", p.MarketPosition == MarketPosition.Long ? "long" : "short").Set("qty", p.Quantity));
                    }
                }
            }
            return found;
        }

        private void StepFlattens()
        {
            foreach (FKSFlatten f in flattens.ToArray())
            {
                StepFlatten(f);
            }
        }

        private void StepFlatten(FKSFlatten f)
        {
            long now = runtime.Clock.TickMs();
            Account account = runtime.FindAccount(f.Account);
            List<object> remaining = account == null ? new List<object>() : Remaining(account, f.Instruments);
            bool entries = false;
            bool exits = false;
            foreach (FKSOrder o in Orders(f.Account, null))
            {
                bool live = f.Covers(o.Instrument) && o.Remaining > 0 && !o.Missing;
                entries = entries || (live && o.Parts.Role == "E");
                exits = exits || (live && o.Parts.Role != "E");
                if (live && remaining.Count == 0)
                {
                    CancelOnce(o);
                }
            }
            bool flat = account != null && remaining.Count == 0 && !entries && IsOrderFeedUp(f.Account);
            if (flat && exits && now - f.StartTick < FlattenAgainMs)
            {
                return; // the platform cancels them; give it time before reporting
            }
            if (!flat && now - f.StartTick < FlattenMsMax)
            {
                if (now - f.CallTick >= FlattenAgainMs && remaining.Count > 0)
                {
                    CallFlatten(f);
                }
                return;
            }
            flattens.Remove(f);
            if (flat)
            {
                CloseFlattened(f);
            }
            else
            {
                foreach (FKSTrack t in active)
                {
                    if (t.Signal.Account == f.Account && f.Covers(t.Signal.Instrument))
                    {
                        t.GaveUp = false; // protect again what could not be closed
                        t.Repairs = 0;
                    }
                }
                runtime.Emit("risk", new FKSObject().Set("account", f.Account).Set("code", "not_flat").Set("detail", "not flat 30 s after flatten: " + f.Reason));
            }
            if (f.Done != null)
            {
                f.Done(flat, remaining, flat ? null : "timeout");
            }
        }

        private void CloseFlattened(FKSFlatten f)
        {
            foreach (FKSTrack t in active.ToArray())
            {
                if (t.Signal.Account != f.Account || !f.Covers(t.Signal.Instrument) || t.IsFinal || t.State == "relayed" || t.State == "indeterminate")
                {
                    continue;
                }
                if (t.Filled > 0)
                {
                    t.ExitFilled = t.Filled;
                    Finish(t, "closed", "flattened", f.Reason);
                }
                else if (t.Signal.IsExit)
                {
                    Finish(t, "closed", "flattened", f.Reason);
                }
            }
        }

        // ================= reconcile =================

        /// <summary>The account's order connection came up or went down.</summary>
        public void OnConnection(string name, bool connected)
        {
            bool was = connectedTick.ContainsKey(name);
            if (!connected)
            {
                connectedTick.Remove(name);
                settled.Remove(name);
                return;
            }
            if (!was)
            {
                connectedTick[name] = runtime.Clock.TickMs();
                Scan(name, false);
                string reason;
                if (demanded.TryGetValue(name, out reason))
                {
                    demanded.Remove(name);
                    StartFlatten(name, null, reason, null, true);
                }
            }
        }

        /// <summary>Read the platform's orders and executions of an account. Undecided signals are read only when `settled`.</summary>
        private void Scan(string name, bool isSettled)
        {
            Account account = runtime.FindAccount(name);
            if (account == null)
            {
                return;
            }
            List<FKSOrderCopy> listed = new List<FKSOrderCopy>();
            lock (account.Orders)
            {
                foreach (Order o in account.Orders)
                {
                    listed.Add(FKSOrderCopy.From(o));
                }
            }
            List<FKSExecutionCopy> executed = new List<FKSExecutionCopy>();
            lock (account.Executions)
            {
                foreach (Execution x in account.Executions)
                {
                    executed.Add(FKSExecutionCopy.From(x));
                }
            }
            foreach (FKSOrderCopy c in listed)
            {
                if (isSettled || !IsUndecided(c.Name))
                {
                    OnOrder(c);
                }
            }
            foreach (FKSExecutionCopy c in executed)
            {
                if (isSettled || !IsUndecided(c.Name))
                {
                    OnExecution(c);
                }
            }
            if (isSettled)
            {
                Resolve(name, listed);
            }
        }

        private bool IsUndecided(string name)
        {
            FKSName parts = FKSProtocol.ParseName(name);
            FKSTrack t;
            return parts != null && tracks.TryGetValue(parts.Id, out t) && (t.State == "indeterminate" || t.State == "ambiguous");
        }

        /// <summary>Decide the signals whose Submit is unproven, now that the account has been connected long enough.</summary>
        private void Resolve(string name, List<FKSOrderCopy> listed)
        {
            foreach (FKSTrack t in active.ToArray())
            {
                if (t.Signal.Account != name || t.State != "indeterminate")
                {
                    continue;
                }
                bool unnamed = listed.Exists(delegate(FKSOrderCopy c)
                {
                    return string.IsNullOrEmpty(c.Name) && c.Entry == OrderEntry.Automated && c.Instrument == t.Signal.Instrument && PlatformMs(c.Time) >= t.IntentMs - 1000;
                });
                if (unnamed)
                {
                    t.State = "ambiguous";
                    ambiguous.Add(name + "|" + t.Signal.Instrument);
                    EmitSignal(t, "ambiguous", null, "an automated order without a name may be this one; entries on the instrument are blocked");
                    continue;
                }
                t.ExitId = null;
                Finish(t, "not_submitted", null, "the platform has no order of this name");
            }
        }

        /// <summary>Platform time as Unix milliseconds UTC.</summary>
        public static long PlatformMs(DateTime time)
        {
            if (time.Kind == DateTimeKind.Utc)
            {
                return FKSClock.Ms(time);
            }
            TimeZoneInfo zone = NinjaTrader.Core.Globals.GeneralOptions.TimeZoneInfo;
            DateTime plain = DateTime.SpecifyKind(time, DateTimeKind.Unspecified);
            if (zone.IsInvalidTime(plain))
            {
                plain = plain.AddHours(1); // the hour that the clock change skips
            }
            return FKSClock.Ms(TimeZoneInfo.ConvertTimeToUtc(plain, zone));
        }

        /// <summary>An operator has looked at the orders without a name: entries on these instruments are allowed again.</summary>
        public void ConfirmAmbiguous()
        {
            foreach (FKSTrack t in active.ToArray())
            {
                if (t.State == "ambiguous")
                {
                    Finish(t, "not_submitted", "operator", "confirmed by an operator");
                }
            }
            ambiguous.Clear();
        }

        // ================= time =================

        /// <summary>Called several times a second: expiry, settling, invariant, flatten limits, positions closed outside.</summary>
        public void Tick()
        {
            long now = runtime.Clock.NowMs();
            foreach (string name in new List<string>(connectedTick.Keys))
            {
                if (!settled.Contains(name) && runtime.Clock.TickMs() - connectedTick[name] >= runtime.Config.SettleMs)
                {
                    settled.Add(name);
                    knows.Add(name);
                    Scan(name, true);
                    PlaceMissing(name);
                }
            }
            foreach (FKSTrack t in active.ToArray())
            {
                if (t.Signal.ValidUntil <= now)
                {
                    Expire(t);
                }
                Review(t);
            }
            StepFlattens();
            CheckOutside();
        }

        private void Expire(FKSTrack t)
        {
            if (t.State == "relayed")
            {
                Finish(t, "expired", null, null);
                return;
            }
            FKSOrder o;
            bool working = !t.IsEntryDone && !t.Signal.IsExit && !t.IsRecovered && (t.State == "submitted" || t.State == "open")
                && orders.TryGetValue(t.Signal.Account + "|" + FKSProtocol.OrderName(t.Signal.Id, "E", 1), out o) && !o.IsTerminal && CancelOnce(o);
            if (working)
            {
                t.EndAs = t.EndAs ?? "expired";
            }
        }

        /// <summary>A position that a person closed leaves exits behind, which would open a reverse position: cancel them.</summary>
        private void CheckOutside()
        {
            Dictionary<string, int> sums = new Dictionary<string, int>();
            foreach (FKSTrack t in active)
            {
                if (!t.Signal.IsExit && t.Open > 0 && settled.Contains(t.Signal.Account))
                {
                    string key = t.Signal.Account + "|" + t.Signal.Instrument;
                    int sum;
                    sums.TryGetValue(key, out sum);
                    sums[key] = sum + (t.Signal.IsBuy ? t.Open : -t.Open);
                }
            }
            foreach (string key in new List<string>(outsideTick.Keys))
            {
                if (!sums.ContainsKey(key))
                {
                    outsideTick.Remove(key);
                }
            }
            foreach (KeyValuePair<string, int> pair in sums)
            {
                string[] part = pair.Key.Split('|');
                Account account = runtime.FindAccount(part[0]);
                bool busy = flattens.Exists(delegate(FKSFlatten f) { return f.Account == part[0] && f.Covers(part[1]); });
                if (busy || account == null || pair.Value == 0 || Held(account, part[1]) == pair.Value)
                {
                    outsideTick.Remove(pair.Key);
                    continue;
                }
                CheckOutside(pair.Key, part[0], part[1], Held(account, part[1]), pair.Value);
            }
        }

        private void CheckOutside(string key, string account, string instrument, int held, int expected)
        {
            long since;
            long now = runtime.Clock.TickMs();
            if (!outsideTick.TryGetValue(key, out since))
            {
                outsideTick[key] = now;
                return;
            }
            if (since < 0 || now - since <= ShortMsMax)
            {
                return;
            }
            outsideTick[key] = -1; // reported once until the difference ends
            runtime.Emit("risk", new FKSObject().Set("account", account).Set("instrument", instrument).Set("code", "position_mismatch")
                .Set("detail", "the platform holds another quantity than the signals' executions").Set("value", held).Set("limit", expected));
            int gone = Math.Sign(held) == -Math.Sign(expected) ? Math.Abs(expected) : Math.Abs(expected) - Math.Abs(held);
            foreach (FKSTrack t in active.ToArray())
            {
                if (t.Signal.Account != account || t.Signal.Instrument != instrument || t.Open == 0 || gone <= 0)
                {
                    continue;
                }
                int part = Math.Min(gone, t.Open);
                gone -= part;
                TakeOutside(t, part);
            }
        }

        /// <summary>Other orders closed a part of this signal's position: reduce its exits, or end it.</summary>
        private void TakeOutside(FKSTrack t, int qty)
        {
            t.ExitFilled += qty;
            int left = qty;
            foreach (FKSLot lot in t.Lots)
            {
                int share = Math.Min(left, lot.Open);
                lot.ExitFilled += share;
                left -= share;
            }
            if (t.Open == 0)
            {
                CancelExits(t);
                if (t.IsEntryDone)
                {
                    Finish(t, "closed", "closed_outside", "the position was closed by other orders");
                }
            }
        }

        private static int Held(Account account, string instrument)
        {
            lock (account.Positions)
            {
                foreach (Position p in account.Positions)
                {
                    if (InstrumentName(p.Instrument) == instrument)
                    {
                        return p.MarketPosition == MarketPosition.Long ? p.Quantity : p.MarketPosition == MarketPosition.Short ? -p.Quantity : 0;
                    }
                }
            }
            return 0;
        }

        // ================= events =================

        private void Finish(FKSTrack t, string state, string code, string detail)
        {
            t.State = state;
            EmitSignal(t, state, code, detail);
            active.Remove(t);
            Released(t); // also of an exit that the broker ended: its position has no stop until then
        }

        private void EmitSignal(FKSTrack t, string state, string code, string detail)
        {
            runtime.Emit("signal", SignalFields(t, state, code, detail));
        }

        private static FKSObject SignalFields(FKSTrack t, string state, string code, string detail)
        {
            return new FKSObject().Set("id", t.Signal.Id).Set("account", t.Signal.Account).Set("state", state).SetIf("code", code).SetIf("detail", detail);
        }

        private void EmitOrder(FKSOrderCopy c, FKSName parts)
        {
            runtime.Emit("order", new FKSObject().Set("account", c.Account).Set("id", parts.Id).Set("role", parts.Role).Set("name", c.Name).Set("order_id", c.OrderId)
                .Set("state", c.State.ToString()).Set("qty", c.Qty).Set("filled", c.Filled).Set("avg_price", c.Average).Set("limit", c.Limit).Set("stop", c.Stop)
                .Set("error", c.Error).Set("comment", c.Comment));
        }

        private void EmitExecution(FKSExecutionCopy c, FKSName parts, string operation, bool suspect)
        {
            FKSObject made = new FKSObject().Set("account", c.Account).SetIf("id", parts == null ? null : parts.Id).SetIf("role", parts == null ? null : parts.Role);
            if (parts != null && parts.Lot > 1)
            {
                made.Set("lot", parts.Lot);
            }
            made.Set("name", parts == null ? c.Name : FKSProtocol.OrderName(parts.Id, parts.Role, parts.Lot)).Set("instrument", c.Instrument).Set("exec_id", c.ExecutionId)
                .Set("op", operation).Set("side", c.IsBuy ? "buy" : "sell").Set("qty", c.Qty).Set("price", c.Price).Set("commission", c.Commission).Set("fee", c.Fee)
                .Set("time_ms", PlatformMs(c.Time)).Set("sod", c.IsSod);
            if (suspect)
            {
                made.Set("suspect", true);
            }
            runtime.Emit("exec", made);
        }

        private void EmitRisk(FKSTrack t, string code, string detail, object value, object limit)
        {
            runtime.Emit("risk", new FKSObject().Set("account", t.Signal.Account).Set("id", t.Signal.Id).Set("code", code).Set("detail", detail).Set("value", value).Set("limit", limit));
        }

        // ================= reports =================

        public List<object> OpenSignals()
        {
            List<object> made = new List<object>();
            foreach (FKSTrack t in active)
            {
                int stops = 0;
                foreach (FKSOrder o in ExitsOf(t, "S"))
                {
                    stops += o.Protects ? o.Remaining : 0;
                }
                made.Add(new FKSObject().Set("id", t.Signal.Id).Set("action", t.Signal.Action).Set("state", t.Reported).Set("filled", t.Filled).Set("protected", t.Open == 0 || stops >= t.Open));
            }
            return made;
        }
    }
}
