// Simulated NinjaTrader 8: the members that the AddOn may use, with the names, argument orders and enum values of the
// documented platform and nothing else, so that a wrong member does not compile. Control members are internal.
using System;
using System.Collections;
using System.Collections.Generic;
using System.Collections.ObjectModel;
using System.Globalization;
using System.Linq;
using System.Runtime.CompilerServices;
using System.Threading;

[assembly: InternalsVisibleTo("host")]

namespace NinjaTrader.Cbi
{
    public enum OrderAction { Buy, BuyToCover, Sell, SellShort }
    public enum OrderType { Limit, Market, MIT, StopLimit, StopMarket, Unknown = 99 }
    public enum OrderEntry { Automated, Manual }
    public enum TimeInForce { Day, Gtc, Ioc, Opg, Gtd }
    public enum ConnectionStatus { Disconnected, Disconnecting, ConnectionLost, Connected, Connecting }
    public enum MarketPosition { Long, Short, Flat }
    public enum Operation { Add, Update, Remove }
    public enum Currency { UsDollar, Euro }
    public enum Provider { Simulator, Playback, Rithmic, Tradovate, ContinuumCQG, External }
    public enum LogLevel { Alert, Information, Warning, Error }
    public enum InstrumentType { Future, Stock, Index, Forex }

    public enum OrderState
    {
        Accepted = 0, Cancelled = 1, Filled = 2, Initialized = 3, PartFilled = 4, CancelSubmitted = 5, ChangeSubmitted = 6, Submitted = 7,
        Rejected = 9, Working = 10, CancelPending = 11, ChangePending = 12, Suspended = 13, TriggerPending = 8, AcceptedByRisk = 50, Unknown = 99
    }

    public enum ErrorCode
    {
        NoError = 0, LogOnFailed = 1, OrderRejected = 3, UnableToCancelOrder = 5, UnableToChangeOrder = 6, UnableToSubmitOrder = 7,
        UserAbort = 8, OrderRejectedByRisk = 9, LoginExpired = 10, Panic = 18
    }

    public enum AccountItem
    {
        CashValue, NetLiquidation, RealizedProfitLoss, UnrealizedProfitLoss, GrossRealizedProfitLoss, BuyingPower, InitialMargin,
        MaintenanceMargin, Commission, Fee, DailyLossLimit, TrailingMaxDrawdown, WeeklyLossLimit, DailyProfitTrigger
    }

    public enum Feature
    {
        NativeOcoOrders, NoIndependentOcoOrders, OcoNeedsManualCancellation, NoStableOrderId, RequiresExactOrderAction,
        OrdersCanBePlacedExternal, ExtendedExecutionsLookback
    }

    public class CustomOrder
    {
        internal CustomOrder()
        {
        }
    }

    /// <summary>A list that may be enumerated only while its collection is locked, as the platform's documentation demands.</summary>
    internal sealed class LockedList<T> : IList<T>
    {
        private readonly List<T> items = new List<T>();
        internal object Owner;

        private void Check()
        {
            if (!Monitor.IsEntered(Owner))
            {
                Sim.Fault("a collection of " + typeof(T).Name + " was read without a lock");
                throw new InvalidOperationException("Collection was modified; enumeration operation may not execute.");
            }
        }

        public IEnumerator<T> GetEnumerator() { Check(); return items.GetEnumerator(); }
        IEnumerator IEnumerable.GetEnumerator() { return GetEnumerator(); }
        public int IndexOf(T item) { Check(); return items.IndexOf(item); }
        public void Insert(int index, T item) { Check(); items.Insert(index, item); }
        public void RemoveAt(int index) { Check(); items.RemoveAt(index); }
        public T this[int index] { get { Check(); return items[index]; } set { Check(); items[index] = value; } }
        public void Add(T item) { Check(); items.Add(item); }
        public void Clear() { Check(); items.Clear(); }
        public bool Contains(T item) { Check(); return items.Contains(item); }
        public void CopyTo(T[] array, int index) { Check(); items.CopyTo(array, index); }
        public bool Remove(T item) { Check(); return items.Remove(item); }
        public int Count { get { return items.Count; } }
        public bool IsReadOnly { get { return false; } }
    }

    internal sealed class LockedCollection<T> : Collection<T>
    {
        internal LockedCollection() : base(new LockedList<T>())
        {
            ((LockedList<T>)Items).Owner = this;
        }
    }

    public class MasterInstrument
    {
        internal MasterInstrument(string name, double tick, double point)
        {
            Name = name;
            TickSize = tick;
            PointValue = point;
        }

        public string Name { get; private set; }
        public double TickSize { get; internal set; }
        public double PointValue { get; internal set; }
        public Currency Currency { get { return Currency.UsDollar; } }
        public InstrumentType InstrumentType { get { return InstrumentType.Future; } }
    }

    public class Instrument
    {
        internal Instrument(MasterInstrument master, DateTime expiry)
        {
            MasterInstrument = master;
            Expiry = expiry;
        }

        public MasterInstrument MasterInstrument { get; private set; }
        public DateTime Expiry { get; private set; }

        /// <summary>The display name; it depends on a user setting, which `Sim.Symbology` changes.</summary>
        public string FullName
        {
            get
            {
                return Sim.Symbology ? MasterInstrument.Name + Expiry.ToString("yyyyMM", CultureInfo.InvariantCulture)
                    : MasterInstrument.Name + " " + Expiry.ToString("MM-yy", CultureInfo.InvariantCulture);
            }
        }

        public static Instrument GetInstrument(string name)
        {
            return Sim.Find(name);
        }
    }

    public class Order
    {
        internal Order()
        {
        }

        public Account Account { get; internal set; }
        public double AverageFillPrice { get; internal set; }
        public int Filled { get; internal set; }
        public DateTime Gtd { get; internal set; }
        public long Id { get; internal set; }
        public Instrument Instrument { get; internal set; }
        public double LimitPrice { get; internal set; }
        public double LimitPriceChanged { get; set; }
        public string Name { get; internal set; }
        public string Oco { get; internal set; }
        public OrderAction OrderAction { get; internal set; }
        public OrderEntry OrderEntry { get; internal set; }
        public string OrderId { get; internal set; }
        public OrderState OrderState { get; internal set; }
        public OrderType OrderType { get; internal set; }
        public int Quantity { get; internal set; }
        public int QuantityChanged { get; set; }
        public double StopPrice { get; internal set; }
        public double StopPriceChanged { get; set; }
        public DateTime Time { get; internal set; }
        public TimeInForce TimeInForce { get; internal set; }

        public static bool IsTerminalState(OrderState state)
        {
            return state == OrderState.Cancelled || state == OrderState.Filled || state == OrderState.Rejected || state == OrderState.Unknown;
        }

        /// <summary>The same order as another object, as the platform lists it after a reconnect.</summary>
        internal Order Renewed()
        {
            return (Order)MemberwiseClone();
        }
    }

    public class Execution
    {
        internal Execution()
        {
        }

        public Account Account { get; internal set; }
        public double Commission { get; internal set; }
        public string ExecutionId { get; internal set; }
        public double Fee { get; internal set; }
        public Instrument Instrument { get; internal set; }
        public bool IsSod { get; internal set; }
        public MarketPosition MarketPosition { get; internal set; }
        public string Name { get; internal set; }
        public Order Order { get; internal set; }
        public string OrderId { get; internal set; }
        public double Price { get; internal set; }
        public int Quantity { get; internal set; }
        public DateTime Time { get; internal set; }
    }

    public class Position
    {
        internal Position()
        {
        }

        public Account Account { get; internal set; }
        public double AveragePrice { get; internal set; }
        public Instrument Instrument { get; internal set; }
        public MarketPosition MarketPosition { get; internal set; }
        public int Quantity { get; internal set; }
    }

    public class OrderEventArgs : EventArgs
    {
        internal OrderEventArgs()
        {
        }

        public double AverageFillPrice { get; internal set; }
        public string Comment { get; internal set; }
        public ErrorCode Error { get; internal set; }
        public int Filled { get; internal set; }
        public double LimitPrice { get; internal set; }
        public Order Order { get; internal set; }
        public string OrderId { get; internal set; }
        public OrderState OrderState { get; internal set; }
        public int Quantity { get; internal set; }
        public double StopPrice { get; internal set; }
        public DateTime Time { get; internal set; }
    }

    public class ExecutionEventArgs : EventArgs
    {
        internal ExecutionEventArgs()
        {
        }

        public Execution Execution { get; internal set; }
        public string ExecutionId { get; internal set; }
        public bool IsSod { get; internal set; }
        public MarketPosition MarketPosition { get; internal set; }
        public Operation Operation { get; internal set; }
        public string OrderId { get; internal set; }
        public double Price { get; internal set; }
        public int Quantity { get; internal set; }
        public DateTime Time { get; internal set; }
    }

    public class PositionEventArgs : EventArgs
    {
        internal PositionEventArgs()
        {
        }

        public double AveragePrice { get; internal set; }
        public MarketPosition MarketPosition { get; internal set; }
        public Operation Operation { get; internal set; }
        public Position Position { get; internal set; }
        public int Quantity { get; internal set; }
    }

    public class AccountItemEventArgs : EventArgs
    {
        internal AccountItemEventArgs()
        {
        }

        public Account Account { get; internal set; }
        public AccountItem AccountItem { get; internal set; }
        public Currency Currency { get; internal set; }
        public DateTime Time { get; internal set; }
        public double Value { get; internal set; }
    }

    public class AccountStatusEventArgs : EventArgs
    {
        internal AccountStatusEventArgs()
        {
        }

        public Account Account { get; internal set; }
        public string Message { get; internal set; }
        public ConnectionStatus PreviousStatus { get; internal set; }
        public ConnectionStatus Status { get; internal set; }
    }

    public class ConnectionStatusEventArgs : EventArgs
    {
        internal ConnectionStatusEventArgs()
        {
        }

        public Connection Connection { get; internal set; }
        public ErrorCode Error { get; internal set; }
        public string NativeError { get; internal set; }
        public ConnectionStatus PreviousPriceStatus { get; internal set; }
        public ConnectionStatus PreviousStatus { get; internal set; }
        public ConnectionStatus PriceStatus { get; internal set; }
        public ConnectionStatus Status { get; internal set; }
    }

    public class ConnectOptions
    {
        internal ConnectOptions()
        {
        }

        public string Name { get; internal set; }
    }

    public class Connection
    {
        internal Connection(string name)
        {
            Options = new ConnectOptions { Name = name };
            Status = ConnectionStatus.Connected;
            PriceStatus = ConnectionStatus.Connected;
            Features = new[] { Feature.NativeOcoOrders };
        }

        public static readonly Collection<Connection> Connections = new LockedCollection<Connection>();
        public static event EventHandler<ConnectionStatusEventArgs> ConnectionStatusUpdate;

        public Feature[] Features { get; internal set; }
        public ConnectOptions Options { get; private set; }
        public ConnectionStatus PriceStatus { get; internal set; }
        public ConnectionStatus Status { get; internal set; }

        internal static int Handlers { get { return Sim.Count(ConnectionStatusUpdate); } }

        internal void Set(ConnectionStatus status, ConnectionStatus price)
        {
            ConnectionStatusEventArgs e = new ConnectionStatusEventArgs
            {
                Connection = this, PreviousStatus = Status, PreviousPriceStatus = PriceStatus, Status = status, PriceStatus = price, NativeError = ""
            };
            Status = status;
            PriceStatus = price;
            Sim.Raise(ConnectionStatusUpdate, this, e);
        }
    }

    public class Account
    {
        private readonly Dictionary<AccountItem, double> values = new Dictionary<AccountItem, double>();

        internal Account(string name, Provider provider)
        {
            Name = name;
            Provider = provider;
            Orders = new LockedCollection<Order>();
            Executions = new LockedCollection<Execution>();
            Positions = new LockedCollection<Position>();
        }

        public static readonly Collection<Account> All = new LockedCollection<Account>();
        public static event EventHandler<AccountStatusEventArgs> AccountStatusUpdate;
        public event EventHandler<AccountItemEventArgs> AccountItemUpdate;
        public event EventHandler<ExecutionEventArgs> ExecutionUpdate;
        public event EventHandler<OrderEventArgs> OrderUpdate;
        public event EventHandler<PositionEventArgs> PositionUpdate;

        public Connection Connection { get; internal set; }
        public ConnectionStatus ConnectionStatus { get { return Connection == null ? ConnectionStatus.Disconnected : Connection.Status; } }
        public Currency Denomination { get { return Currency.UsDollar; } }
        public Collection<Execution> Executions { get; private set; }
        public string Name { get; private set; }
        public Collection<Order> Orders { get; private set; }
        public Collection<Position> Positions { get; private set; }
        public Provider Provider { get; internal set; }

        public double Get(AccountItem itemType, Currency currency)
        {
            double found;
            lock (values)
            {
                return values.TryGetValue(itemType, out found) ? found : 0;
            }
        }

        public Order CreateOrder(Instrument instrument, OrderAction action, OrderType orderType, OrderEntry orderEntry, TimeInForce timeInForce,
            int quantity, double limitPrice, double stopPrice, string oco, string name, DateTime gtd, CustomOrder customOrder)
        {
            return Sim.Create(this, instrument, action, orderType, orderEntry, timeInForce, quantity, limitPrice, stopPrice, oco, name, gtd);
        }

        public void Submit(IEnumerable<Order> orders) { Sim.Submit(this, orders.ToArray()); }
        public void Change(IEnumerable<Order> orders) { Sim.Change(this, orders.ToArray()); }
        public void Cancel(IEnumerable<Order> orders) { Sim.Cancel(this, orders.ToArray()); }
        public void Flatten(ICollection<Instrument> instruments) { Sim.Flatten(this, instruments.ToArray()); }

        // ---- control ----

        internal int[] Handlers
        {
            get { return new[] { Sim.Count(OrderUpdate), Sim.Count(ExecutionUpdate), Sim.Count(PositionUpdate), Sim.Count(AccountItemUpdate) }; }
        }

        internal static int StatusHandlers { get { return Sim.Count(AccountStatusUpdate); } }
        internal void Raise(OrderEventArgs e) { Sim.Raise(OrderUpdate, this, e); }
        internal void Raise(ExecutionEventArgs e) { Sim.Raise(ExecutionUpdate, this, e); }
        internal void Raise(PositionEventArgs e) { Sim.Raise(PositionUpdate, this, e); }
        internal void RaiseStatus() { Sim.Raise(AccountStatusUpdate, this, new AccountStatusEventArgs { Account = this, Status = ConnectionStatus, Message = "" }); }

        internal void Set(AccountItem item, double value)
        {
            lock (values)
            {
                values[item] = value;
            }
            Sim.Raise(AccountItemUpdate, this, new AccountItemEventArgs { Account = this, AccountItem = item, Currency = Currency.UsDollar, Value = value, Time = Sim.Now() });
        }
    }
}

namespace NinjaTrader.Core
{
    public class GeneralOptions
    {
        internal GeneralOptions()
        {
            TimeZoneInfo = TimeZoneInfo.Utc;
        }

        public TimeZoneInfo TimeZoneInfo { get; internal set; }
    }

    public static class Globals
    {
        private static readonly GeneralOptions Options = new GeneralOptions();

        public static readonly DateTime MaxDate = new DateTime(2099, 12, 1);
        public static GeneralOptions GeneralOptions { get { return Options; } }
        public static string InstallDir { get { return NinjaTrader.Cbi.Sim.Folder; } }
        public static DateTime Now { get { return NinjaTrader.Cbi.Sim.Now(); } }
        public static string UserDataDir { get { return NinjaTrader.Cbi.Sim.Folder; } }
        public static string ProductVersion { get { return "8.1.2.0"; } }
    }
}

namespace NinjaTrader.Code
{
    public static class Output
    {
        public static void Process(string text, NinjaTrader.NinjaScript.PrintTo tab)
        {
            NinjaTrader.Cbi.Sim.Printed(text);
        }
    }
}

namespace NinjaTrader.Data
{
    using NinjaTrader.Cbi;

    public enum MarketDataType { Ask, Bid, Last, DailyHigh, DailyLow, DailyVolume, LastClose, Opening, OpenInterest, Settlement, Unknown }
    public enum BarsPeriodType { Tick, Volume, Range, Second, Minute, Day, Week, Month, Year }
    public enum MergePolicy { DoNotMerge, MergeBackAdjusted, MergeNonBackAdjusted, UseGlobalSettings, UseDefault }

    public class MarketDataEventArgs : EventArgs
    {
        internal MarketDataEventArgs()
        {
        }

        public double Ask { get; internal set; }
        public double Bid { get; internal set; }
        public Instrument Instrument { get; internal set; }
        public bool IsReset { get; internal set; }
        public double Last { get; internal set; }
        public MarketDataType MarketDataType { get; internal set; }
        public double Price { get; internal set; }
        public DateTime Time { get; internal set; }
        public long Volume { get; internal set; }
    }

    public class MarketData
    {
        internal static readonly List<WeakReference> Made = new List<WeakReference>();

        public MarketData(Instrument instrument)
        {
            Instrument = instrument;
            lock (Made)
            {
                Made.Add(new WeakReference(this));
            }
        }

        public event EventHandler<MarketDataEventArgs> Update;

        public MarketDataEventArgs Ask { get { return Sim.Quote(Instrument, MarketDataType.Ask); } }
        public MarketDataEventArgs Bid { get { return Sim.Quote(Instrument, MarketDataType.Bid); } }
        public Instrument Instrument { get; private set; }
        public MarketDataEventArgs Last { get { return Sim.Quote(Instrument, MarketDataType.Last); } }

        internal int Handlers { get { return Sim.Count(Update); } }
        internal void Raise(MarketDataEventArgs e) { Sim.Raise(Update, this, e); }
    }

    public class BarsPeriod
    {
        public BarsPeriodType BarsPeriodType { get; set; }
        public MarketDataType MarketDataType { get; set; }
        public int Value { get; set; }
    }

    public class Bars
    {
        internal readonly List<double[]> Rows = new List<double[]>();
        internal readonly List<DateTime> Times = new List<DateTime>();

        internal Bars()
        {
        }

        public int Count { get { return Rows.Count; } }
        public double GetClose(int index) { return Rows[index][3]; }
        public double GetHigh(int index) { return Rows[index][1]; }
        public double GetLow(int index) { return Rows[index][2]; }
        public double GetOpen(int index) { return Rows[index][0]; }
        public DateTime GetTime(int index) { return Times[index]; }
        public long GetVolume(int index) { return (long)Rows[index][4]; }
    }

    public class TradingHours
    {
        internal TradingHours()
        {
        }

        public static TradingHours Get(string name)
        {
            return name == "Default 24 x 7" ? new TradingHours() : null;
        }
    }

    public class BarsRequest : IDisposable
    {
        private readonly Instrument instrument;

        public BarsRequest(Instrument instrument, DateTime fromLocal, DateTime toLocal)
        {
            this.instrument = instrument;
            FromLocal = fromLocal;
            ToLocal = toLocal;
        }

        public Bars Bars { get; internal set; }
        public BarsPeriod BarsPeriod { get; set; }
        public DateTime FromLocal { get; private set; }
        public Instrument Instrument { get { return instrument; } }
        public MergePolicy MergePolicy { get; set; }
        public DateTime ToLocal { get; private set; }
        public TradingHours TradingHours { get; set; }

        public void Request(Action<BarsRequest, ErrorCode, string> callback)
        {
            Sim.History(this, callback);
        }

        public void Dispose()
        {
        }
    }
}
