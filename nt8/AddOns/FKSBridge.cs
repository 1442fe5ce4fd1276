// FKS bridge AddOn: life cycle, worker thread, subscriptions to account events and the wiring of journal, orders, risk gate,
// market data and server. Every decision runs on one worker thread; handlers and sockets only copy values and enqueue.
using System;
using System.Collections.Concurrent;
using System.Collections.Generic;
using System.IO;
using System.Threading;
using NinjaTrader.Cbi;

namespace NinjaTrader.NinjaScript.AddOns
{
    /// <summary>A signal as indicators show it.</summary>
    public sealed class FKSSignalView
    {
        public string Id;
        public string Account;
        public string Instrument;
        public string Side;
        public string State;
        public int Qty;
        public int Filled;
        public decimal? Entry;
        public decimal? Stop;
        public decimal? Target;
        public string Note;
    }

    /// <summary>What indicators read: made by the worker thread, never changed afterwards.</summary>
    public sealed class FKSSnapshot
    {
        public string Epoch;
        public int Port;
        public long LastSeq;
        public long AckedSeq;
        public bool Halted;
        public string JournalError;
        public bool HasControl;
        public bool HasGuardian;
        public int Unprotected;
        public List<FKSSignalView> Signals;
        public List<string> Accounts;
    }

    public class FKSBridge : AddOnBase, IFKSApplication, IFKSRuntime
    {
        public const int StartMsMax = 15000;
        public const int StopMsMax = 2000;
        public const int TickEveryMs = 50;
        public const int TurnMax = 256;
        public const int StatusEveryMs = 30000;
        public const int ReplayLinesMax = 1000;

        private static volatile FKSBridge current;

        private readonly object lifeGate = new object();
        private BlockingCollection<Action> queue;
        private Thread worker;
        private volatile bool stopping;
        private bool started;

        private FKSClock clock;
        private FKSConfig config;
        private FKSJournal journal;
        private FKSRisk risk;
        private FKSOrders orders;
        private FKSServer server;
        private FKSMarket market;
        private bool isReady;
        private bool hasFailed; // the journal could not be written at the end of the last turn
        private long sentSeq; // the last event that left to the sessions
        private readonly List<Account> subscribed = new List<Account>();
        private readonly Dictionary<string, string> lastStatus = new Dictionary<string, string>(StringComparer.Ordinal);
        private readonly object valueGate = new object();
        private readonly Dictionary<string, double> values = new Dictionary<string, double>(StringComparer.Ordinal);
        private readonly Dictionary<FKSSession, long> replays = new Dictionary<FKSSession, long>();
        private readonly Dictionary<FKSSession, long> replayed = new Dictionary<FKSSession, long>();
        private readonly Dictionary<string, KeyValuePair<string, long>> seeds = new Dictionary<string, KeyValuePair<string, long>>(StringComparer.Ordinal);
        private long lostTick = -1;
        private bool lostDone;
        private long lastTick;
        private long lastStatusTick;
        private long lastSecondTick;
        private volatile FKSSnapshot snapshot;

        /// <summary>The running bridge of this NinjaTrader, or null.</summary>
        public static FKSBridge Current
        {
            get { return current; }
        }

        public FKSSnapshot Snapshot
        {
            get { return snapshot; }
        }

        // ================= life cycle =================

        /// <summary>The platform calls this in any thread, also on copies that only see SetDefaults and Terminated.</summary>
        protected override void OnStateChange()
        {
            if (State == State.SetDefaults)
            {
                Name = "FKSBridge";
                Description = "Connects NinjaTrader to FKS. Settings: fks\\config.json and fks\\secret.key in the NinjaTrader folder.";
            }
            else if (State == State.Active)
            {
                Start();
            }
            else if (State == State.Terminated)
            {
                Stop();
            }
        }

        private void Start()
        {
            lock (lifeGate)
            {
                if (started || stopping)
                {
                    return;
                }
                started = true;
                clock = MakeClock();
                queue = new BlockingCollection<Action>();
                worker = new Thread(delegate() { FKSThreads.Guard("worker", Run); });
                worker.IsBackground = true;
                worker.Name = "FKS worker";
                worker.Start();
            }
        }

        private void Stop()
        {
            Thread found;
            lock (lifeGate)
            {
                stopping = true;
                found = worker;
                worker = null;
            }
            if (found == null)
            {
                return; // an instance that never started
            }
            queue.Add(delegate { });
            if (!found.Join(StopMsMax))
            {
                WriteOut("FKS bridge: the worker did not end within 2 s", true);
            }
            Unsubscribe(); // again: a worker that hangs must not keep the old assembly's handlers
        }

        protected virtual FKSClock MakeClock()
        {
            return new FKSClock();
        }

        /// <summary>A point at which tests end the process or let a write fail; the product does nothing here.</summary>
        public virtual void Reached(string point)
        {
        }

        protected void Post(Action action)
        {
            BlockingCollection<Action> found = queue;
            if (found != null && !stopping)
            {
                found.Add(action);
            }
        }

        private static string Folder
        {
            get { return Path.Combine(NinjaTrader.Core.Globals.UserDataDir, "fks"); }
        }

        // ================= worker =================

        private void Run()
        {
            if (!Begin())
            {
                End();
                return;
            }
            while (!stopping)
            {
                Action action;
                int done = 0;
                while (!stopping && done < TurnMax && queue.TryTake(out action, done == 0 ? 20 : 0))
                {
                    Do(action);
                    done++;
                }
                long now = clock.TickMs();
                if (now - lastTick >= TickEveryMs || now < lastTick)
                {
                    Do(Tick);
                }
                EndTurn();
            }
            End();
        }

        private void Do(Action action)
        {
            try
            {
                action();
            }
            catch (Exception cause)
            {
                Log("unexpected " + cause.GetType().Name + ": " + cause.Message, true);
            }
        }

        /// <summary>Open folder and port; both may still belong to the instance of the last compile, hence the retries.</summary>
        private bool Begin()
        {
            System.Diagnostics.Stopwatch watch = System.Diagnostics.Stopwatch.StartNew();
            string reason = "";
            while (!stopping && watch.ElapsedMilliseconds < StartMsMax)
            {
                try
                {
                    if (TryBegin())
                    {
                        return true;
                    }
                    reason = "ports " + config.Port + " and " + config.PortFallback + " are in use";
                }
                catch (FKSConfigException cause)
                {
                    Log("not started: " + cause.Message, true);
                    return false;
                }
                catch (FKSJournalException cause)
                {
                    reason = cause.Message;
                }
                Thread.Sleep(50);
            }
            if (!stopping)
            {
                Log("not started: " + reason, true);
            }
            return false;
        }

        private bool TryBegin()
        {
            config = FKSConfig.Load(Folder);
            FKSRules rules = config.Rules == null ? null : FKSRules.Load(Path.Combine(Folder, config.Rules));
            if (journal == null)
            {
                journal = FKSJournal.Open(Folder, clock.NowMs(), Reached);
            }
            risk = new FKSRisk(config, rules);
            orders = new FKSOrders(this);
            server = new FKSServer(config, clock, this, Post);
            if (!server.Listen())
            {
                return false;
            }
            orders.Load(journal.TakeLoaded(), journal.IsComplete);
            sentSeq = journal.LastSeq;
            market = new FKSMarket(clock, Post);
            Account.AccountStatusUpdate += OnAccountStatus;
            Connection.ConnectionStatusUpdate += OnConnectionStatus;
            isReady = true;
            current = this;
            RefreshAccounts();
            if (journal.Corrupt != null)
            {
                Alarm("journal_corrupt", journal.Corrupt + ": a new epoch starts, known ids are rebuilt from order names");
            }
            Log("FKS bridge 1.0.0 listening " + config.Bind + ":" + server.BoundPort + " epoch=" + journal.Epoch + " accounts=" + string.Join(",", new List<string>(config.Accounts.Keys).ToArray()), false);
            MakeSnapshot();
            EndTurn();
            return true;
        }

        /// <summary>Write what the turn has recorded, then let its lines leave; events leave only when they are on the disk.</summary>
        private void EndTurn()
        {
            market.Continue();
            bool dirty = journal.IsDirty;
            bool durable = journal.Flush(clock.TickMs());
            if (durable && dirty)
            {
                Reached("before_send");
            }
            NoteJournal(durable);
            StepReplays();
            server.Release(durable);
            sentSeq = durable ? journal.LastSeq : sentSeq;
        }

        /// <summary>Report that the journal cannot be written, or that it can again: then also the events of the time between.</summary>
        private void NoteJournal(bool durable)
        {
            if (durable != hasFailed)
            {
                return;
            }
            hasFailed = !durable;
            if (hasFailed)
            {
                Alarm("journal_error", journal.Error + "; new entries are refused, exits and protection go on");
            }
            else
            {
                Log("the journal is written again", false);
                for (long seq = Math.Max(sentSeq + 1, journal.OldestSeq); seq <= journal.LastSeq; seq++)
                {
                    server.Broadcast(journal.Events[(int)(seq - journal.OldestSeq)].Text);
                }
            }
            PushStatus();
        }

        private void End()
        {
            isReady = false;
            if (current == this)
            {
                current = null;
            }
            Unsubscribe();
            if (market != null)
            {
                market.Stop();
            }
            if (server != null)
            {
                server.Stop();
            }
            if (journal != null)
            {
                journal.Stop();
            }
        }

        private void Tick()
        {
            lastTick = clock.TickMs();
            server.Tick();
            RefreshAccounts();
            orders.Tick();
            market.Tick();
            CheckLost();
            if (lastTick - lastSecondTick >= 1000 || lastTick < lastSecondTick)
            {
                lastSecondTick = lastTick;
                CheckLimits();
            }
            if (lastTick - lastStatusTick >= StatusEveryMs || lastTick < lastStatusTick)
            {
                lastStatusTick = lastTick;
                PushStatus();
            }
            MakeSnapshot();
        }

        /// <summary>Run the periodic work now, whatever the clock says; used by tests.</summary>
        protected void TickNow()
        {
            Do(Tick);
        }

        // ================= IFKSRuntime =================

        public FKSClock Clock
        {
            get { return clock; }
        }

        public FKSConfig Config
        {
            get { return config; }
        }

        public FKSJournal Journal
        {
            get { return journal; }
        }

        public FKSRisk Risk
        {
            get { return risk; }
        }

        public bool IsReady
        {
            get { return isReady; }
        }

        public FKSOrders Orders
        {
            get { return orders; }
        }

        public IList<FKSSession> Sessions
        {
            get { return server.Sessions; }
        }

        public Account FindAccount(string name)
        {
            lock (Account.All)
            {
                foreach (Account account in Account.All)
                {
                    if (account.Name == name)
                    {
                        return account;
                    }
                }
            }
            return null;
        }

        public decimal? LastPrice(Instrument instrument, out long ageMs)
        {
            return market.LastPrice(instrument, out ageMs);
        }

        public FKSAccountValues Values(string account)
        {
            FKSAccountValues made = new FKSAccountValues();
            made.Realized = Value(account, AccountItem.RealizedProfitLoss);
            made.Unrealized = Value(account, AccountItem.UnrealizedProfitLoss);
            made.NetLiquidation = Value(account, AccountItem.NetLiquidation);
            made.OwnRealized = orders.Realized(account);
            return made;
        }

        /// <summary>The account's value; null where the broker never reported it, because the platform then reads 0.</summary>
        private decimal? Value(string account, AccountItem item)
        {
            double seen;
            lock (valueGate)
            {
                if (values.TryGetValue(account + "|" + item, out seen))
                {
                    return (decimal?)FKSJson.FromDouble(seen);
                }
            }
            Account found = FindAccount(account);
            double read = found == null ? 0 : found.Get(item, Currency.UsDollar);
            return read == 0 ? null : (decimal?)FKSJson.FromDouble(read);
        }

        public void Emit(string kind, FKSObject fields)
        {
            FKSEvent made = journal.AppendEvent(kind, fields, clock.NowMs());
            if (!hasFailed)
            {
                server.Broadcast(made.Text);
            }
        }

        public void Log(string text, bool isError)
        {
            WriteOut(text, isError);
        }

        private static void WriteOut(string text, bool isError)
        {
            NinjaTrader.Code.Output.Process(text, PrintTo.OutputTab1);
            if (isError)
            {
                NinjaScript.Log(text, LogLevel.Error);
            }
        }

        // ================= platform events =================

        private void RefreshAccounts()
        {
            List<Account> all = new List<Account>();
            lock (Account.All)
            {
                foreach (Account account in Account.All)
                {
                    all.Add(account);
                }
            }
            foreach (Account account in all)
            {
                if (!config.Accounts.ContainsKey(account.Name))
                {
                    continue;
                }
                lock (lifeGate)
                {
                    if (!stopping && !subscribed.Contains(account))
                    {
                        subscribed.Add(account);
                        account.OrderUpdate += OnOrderUpdate;
                        account.ExecutionUpdate += OnExecutionUpdate;
                        account.PositionUpdate += OnPositionUpdate;
                        account.AccountItemUpdate += OnAccountItemUpdate;
                    }
                }
                NoteConnection(account);
            }
        }

        /// <summary>Report a changed connection of an account once, and let the order part settle or wait.</summary>
        private void NoteConnection(Account account)
        {
            Connection connection = account.Connection;
            string status = connection == null ? "Disconnected" : connection.Status.ToString();
            string price = connection == null ? "Disconnected" : connection.PriceStatus.ToString();
            string now = status + "|" + price;
            string before;
            bool known = lastStatus.TryGetValue(account.Name, out before);
            if (known && before == now)
            {
                return;
            }
            lastStatus[account.Name] = now;
            string orderBefore = known ? before.Split('|')[0] : "";
            if (known)
            {
                Emit("conn", new FKSObject().Set("account", account.Name).Set("connection", connection == null || connection.Options == null ? null : connection.Options.Name)
                    .Set("status", status).Set("price_status", price).Set("prev", orderBefore).Set("native_error", null));
            }
            if (orderBefore != status)
            {
                orders.OnConnection(account.Name, status == "Connected");
                if (known && status == "Connected")
                {
                    PushStatus();
                }
            }
        }

        private void Unsubscribe()
        {
            Account.AccountStatusUpdate -= OnAccountStatus;
            Connection.ConnectionStatusUpdate -= OnConnectionStatus;
            lock (lifeGate)
            {
                foreach (Account account in subscribed)
                {
                    account.OrderUpdate -= OnOrderUpdate;
                    account.ExecutionUpdate -= OnExecutionUpdate;
                    account.PositionUpdate -= OnPositionUpdate;
                    account.AccountItemUpdate -= OnAccountItemUpdate;
                }
                subscribed.Clear();
            }
        }

        private void OnOrderUpdate(object sender, OrderEventArgs e)
        {
            FKSThreads.Guard("order event", delegate
            {
                FKSOrderCopy copy = FKSOrderCopy.From(e);
                Post(delegate { orders.OnOrder(copy); });
            });
        }

        private void OnExecutionUpdate(object sender, ExecutionEventArgs e)
        {
            FKSThreads.Guard("execution event", delegate
            {
                FKSExecutionCopy copy = FKSExecutionCopy.From(e);
                Post(delegate { orders.OnExecution(copy); });
            });
        }

        private void OnPositionUpdate(object sender, PositionEventArgs e)
        {
            FKSThreads.Guard("position event", delegate { CopyPosition(sender, e); });
        }

        private void CopyPosition(object sender, PositionEventArgs e)
        {
            Account account = sender as Account ?? e.Position.Account;
            string name = account.Name;
            string instrument = FKSOrders.InstrumentName(e.Position.Instrument);
            bool flat = e.Operation == Operation.Remove || e.MarketPosition == MarketPosition.Flat;
            string side = flat ? "flat" : e.MarketPosition == MarketPosition.Long ? "long" : "short";
            int qty = flat ? 0 : e.Quantity;
            double average = e.AveragePrice;
            Post(delegate { orders.OnPosition(name, instrument, side, qty, average); });
        }

        /// <summary>These come very often: only the newest value is kept, nothing is queued.</summary>
        private void OnAccountItemUpdate(object sender, AccountItemEventArgs e)
        {
            FKSThreads.Guard("account event", delegate
            {
                string key = e.Account.Name + "|" + e.AccountItem;
                lock (valueGate)
                {
                    values[key] = e.Value;
                }
            });
        }

        private void OnAccountStatus(object sender, AccountStatusEventArgs e)
        {
            Post(RefreshAccounts);
        }

        private void OnConnectionStatus(object sender, ConnectionStatusEventArgs e)
        {
            bool price = e.PriceStatus != e.PreviousPriceStatus;
            Post(delegate
            {
                RefreshAccounts();
                if (price)
                {
                    market.OnPriceStatus();
                }
            });
        }

        // ================= IFKSApplication =================

        public string Epoch
        {
            get { return journal.Epoch; }
        }

        public FKSObject Welcome()
        {
            FKSObject limits = new FKSObject().Set("max_qty", config.MaxQty).Set("max_position", config.MaxPosition).Set("max_distance_ticks", config.MaxDistanceTicks)
                .Set("rate_per_second", config.RatePerSecond).Set("rate_per_minute", config.RatePerMinute);
            return new FKSObject().Set("epoch", journal.Epoch).Set("last_seq", journal.LastSeq).Set("oldest_seq", journal.OldestSeq).Set("now_ms", clock.NowMs())
                .Set("hb_ms", config.HbMs).Set("max_line", FKSProtocol.LineMax).Set("platform", "NinjaTrader " + NinjaTrader.Core.Globals.ProductVersion)
                .Set("group", config.Group).Set("accounts", AccountList()).Set("limits", limits).Set("halted", journal.Halted).Set("ready", isReady).Set("features", FKSProtocol.Features)
                .SetIf("journal_error", journal.Error);
        }

        private List<object> AccountList()
        {
            List<object> made = new List<object>();
            foreach (string name in config.Accounts.Keys)
            {
                Account account = FindAccount(name);
                bool connected = account != null && account.Connection != null && account.Connection.Status == ConnectionStatus.Connected;
                made.Add(new FKSObject().Set("name", name).Set("sim", FKSOrders.IsSimulation(account)).Set("mode", risk.Mode(name, FKSOrders.IsSimulation(account), clock.NowMs()))
                    .Set("connected", connected));
            }
            return made;
        }

        public void Opened(FKSSession session, string epoch, long lastSeq)
        {
            if (session.Role == "data")
            {
                session.MarkReady();
                return;
            }
            bool same = epoch == journal.Epoch;
            if (same && lastSeq > journal.LastSeq)
            {
                session.Bye("seq_ahead", "the client stored up to " + lastSeq + ", the journal ends at " + journal.LastSeq + ": it was rolled back; an operator must look", 60000);
                if (session.Role == "control")
                {
                    Halt(true, "journal is behind the client");
                }
                return;
            }
            if (session.Role == "control")
            {
                lostTick = -1;
                lostDone = false;
            }
            long next = same ? lastSeq + 1 : journal.OldestSeq;
            bool fresh = epoch == null && lastSeq == 0;
            if (fresh && journal.OldestSeq > 1)
            {
                Gap(session, 1, journal.OldestSeq - 1);
            }
            else if (!same && lastSeq > 0)
            {
                Gap(session, 1, lastSeq);
            }
            else if (same && next < journal.OldestSeq)
            {
                Gap(session, next, journal.OldestSeq - 1);
            }
            replays[session] = Math.Max(next, journal.OldestSeq);
            replayed[session] = 0; // sent at the end of the turn, with the events of this turn
        }

        private static void Gap(FKSSession session, long from, long to)
        {
            session.Send(FKSProtocol.Message("gap").Set("from", from).Set("to", to));
        }

        /// <summary>Send stored events in parts, so that a long replay does not fill the send queue.</summary>
        private void StepReplays()
        {
            if (replays.Count == 0)
            {
                return;
            }
            foreach (FKSSession session in new List<FKSSession>(replays.Keys))
            {
                if (session.State != FKSSessionState.Replaying)
                {
                    replays.Remove(session);
                    replayed.Remove(session);
                }
                else if (!session.IsCrowded)
                {
                    StepReplay(session);
                }
            }
        }

        private void StepReplay(FKSSession session)
        {
            long next = Math.Max(replays[session], journal.OldestSeq);
            long end = Math.Min(journal.LastSeq, next + ReplayLinesMax - 1);
            for (; next <= end; next++)
            {
                session.Send(journal.Events[(int)(next - journal.OldestSeq)].Replayed()); // it is on the disk
                replayed[session]++;
            }
            replays[session] = next;
            if (next > journal.LastSeq)
            {
                session.Send(FKSProtocol.Message("replay_end").Set("last_seq", journal.LastSeq).Set("count", replayed[session]));
                replays.Remove(session);
                replayed.Remove(session);
                session.MarkReady();
                SendStatus(session, null);
            }
        }

        public void Received(FKSSession session, string type, FKSObject m)
        {
            string rid = m.Text("rid");
            FKSRefusal refusal = CheckRole(session, type);
            if (refusal == null && session.State == FKSSessionState.Replaying && type != "evack" && type != "status")
            {
                refusal = new FKSRefusal("replaying", "wait for replay_end");
            }
            if (refusal == null && type != "signal" && type != "evack")
            {
                refusal = FKSProtocol.CheckRequest(type, m);
            }
            if (refusal != null)
            {
                if (type != "evack")
                {
                    session.Send(type == "signal" ? FKSProtocol.Nack(m.Text("id"), refusal, clock.NowMs()) : FKSProtocol.Refused(rid, refusal));
                }
                return;
            }
            switch (type)
            {
                case "signal":
                    orders.Handle(m, session.Send);
                    break;
                case "query":
                    session.Send(orders.Query(rid, m.Text("id")));
                    break;
                case "cancel":
                    session.Send(orders.Cancel(rid, m.Text("id")));
                    break;
                case "modify":
                    session.Send(orders.Modify(rid, m));
                    break;
                case "flatten":
                    Flatten(session, m);
                    break;
                case "kill":
                    Kill(m.Text("reason"), delegate(FKSObject result) { session.Send(result.Set("rid", rid)); });
                    break;
                case "resume":
                    Resume(session, m);
                    break;
                case "status":
                    SendStatus(session, rid);
                    break;
                case "evack":
                    journal.Acknowledge(m.Long("seq", 0), clock.NowMs());
                    break;
                case "subscribe":
                    market.Subscribe(session, m);
                    break;
                case "unsubscribe":
                    market.Unsubscribe(session, m);
                    break;
                case "history":
                    market.History(session, m);
                    break;
            }
        }

        private static FKSRefusal CheckRole(FKSSession session, string type)
        {
            bool data = type == "subscribe" || type == "unsubscribe" || type == "history";
            bool allowed;
            switch (session.Role)
            {
                case "control":
                    allowed = !data;
                    break;
                case "guardian":
                    allowed = type == "cancel" || type == "flatten" || type == "kill" || type == "status";
                    break;
                case "data":
                    allowed = data;
                    break;
                default:
                    allowed = type == "status" || type == "query";
                    break;
            }
            return allowed ? null : new FKSRefusal("not_control", "a session of role " + session.Role + " may not send " + type);
        }

        private void Flatten(FKSSession session, FKSObject m)
        {
            string rid = m.Text("rid");
            string account = m.Text("account");
            if (!config.Accounts.ContainsKey(account))
            {
                session.Send(FKSProtocol.Refused(rid, new FKSRefusal("account_not_allowed", "the account is not in config.json")).Set("flat", false));
                return;
            }
            List<string> chosen = null;
            if (m.List("instruments") != null)
            {
                chosen = new List<string>();
                foreach (object item in m.List("instruments"))
                {
                    if (Instrument.GetInstrument((string)item) == null)
                    {
                        session.Send(FKSProtocol.Refused(rid, new FKSRefusal("unknown_instrument", "unknown: " + item)).Set("flat", false));
                        return;
                    }
                    chosen.Add((string)item);
                }
            }
            orders.StartFlatten(account, chosen, m.Text("reason"), delegate(bool flat, List<object> remaining, string code)
            {
                session.Send(FKSProtocol.Result(rid, flat).SetIf("code", code).Set("flat", flat).Set("remaining", remaining));
            });
        }

        /// <summary>Set the kill latch and flatten every account in mode auto, whether or not the disk takes the record; `answer` gets one result.</summary>
        private void Kill(string reason, Action<FKSObject> answer)
        {
            Halt(true, reason);
            List<string> names = new List<string>();
            foreach (KeyValuePair<string, string> pair in config.Accounts)
            {
                if (pair.Value == "auto")
                {
                    names.Add(pair.Key);
                }
            }
            int open = names.Count;
            bool flat = true;
            string code = null;
            List<object> remaining = new List<object>();
            if (open == 0)
            {
                answer(FKSProtocol.Result(null, true).Set("flat", true).Set("remaining", remaining));
            }
            foreach (string name in names)
            {
                orders.StartFlatten(name, null, reason, delegate(bool one, List<object> left, string failed)
                {
                    open--;
                    flat = flat && one;
                    code = code ?? failed;
                    remaining.AddRange(left);
                    if (open == 0)
                    {
                        answer(FKSProtocol.Result(null, flat).SetIf("code", code).Set("flat", flat).Set("remaining", remaining));
                    }
                }, true);
            }
        }

        private void Halt(bool on, string reason)
        {
            if (journal.Halted == on)
            {
                return;
            }
            journal.AppendHalt(on, reason, clock.NowMs());
            Emit("halt", new FKSObject().Set("on", on).Set("reason", reason));
            Log(on ? "halted: " + reason : "resumed: " + reason, on);
        }

        private void Resume(FKSSession session, FKSObject m)
        {
            if (!config.RemoteResume)
            {
                session.Send(FKSProtocol.Refused(m.Text("rid"), new FKSRefusal("local_only", "the kill latch is lifted with the button of the status indicator")));
                return;
            }
            Halt(false, m.Text("reason"));
            session.Send(FKSProtocol.Result(m.Text("rid"), true));
        }

        // ================= seed form =================

        public FKSObject Seed(FKSSession session, FKSObject m)
        {
            long now = clock.NowMs();
            string name = m.Text("account") ?? config.DefaultAccount;
            Account account = FindAccount(name);
            bool authenticated = session.IsAuthenticated && session.Role == "control";
            bool open = session.IsLoopback && config.SeedUnauthenticated == "sim_only" && FKSOrders.IsSimulation(account);
            if (!authenticated && !open)
            {
                return FKSProtocol.SeedAnswer(false, "auth_required: this account needs an authenticated session", null);
            }
            string content = FKSJson.Canonical(m);
            KeyValuePair<string, long> known;
            bool again = seeds.TryGetValue(content, out known) && now - known.Value < 2000;
            string id = again ? known.Key : FKSProtocol.SeedId(m, now);
            foreach (string old in new List<string>(seeds.Keys))
            {
                if (now - seeds[old].Value >= 2000)
                {
                    seeds.Remove(old);
                }
            }
            if (!again)
            {
                seeds[content] = new KeyValuePair<string, long>(id, now);
            }
            FKSRefusal refusal;
            FKSObject signal = FKSProtocol.FromSeed(m, config.DefaultAccount, config.SeedEntryType, id, now, out refusal);
            if (refusal != null)
            {
                return FKSProtocol.SeedAnswer(false, refusal.Code + ": " + refusal.Detail, null);
            }
            FKSObject answer = null;
            orders.Handle(signal, delegate(FKSObject made) { answer = made; });
            string type = answer.Text("t");
            if (type != "ack")
            {
                string code = type == "nack" ? answer.Text("code") : "indeterminate";
                return FKSProtocol.SeedAnswer(false, code + ": " + answer.Text("detail"), id);
            }
            string verb = answer.Flag("dup", false) ? "duplicate " : answer.Text("state") + " ";
            return FKSProtocol.SeedAnswer(true, verb + answer.Text("order"), id);
        }

        // ================= lost client, limits =================

        public void ControlLost()
        {
            lostTick = clock.TickMs();
            lostDone = false;
        }

        /// <summary>State of the control session as the operator sees it.</summary>
        protected string ControlState()
        {
            FKSSession session = server.Control();
            return session != null ? session.State.ToString().ToUpperInvariant() : lostTick >= 0 && !lostDone ? "LOST" : "CLOSED";
        }

        private void CheckLost()
        {
            if (lostTick < 0 || lostDone || clock.TickMs() - lostTick < config.ClientLostGraceMs)
            {
                return;
            }
            lostDone = true;
            Log("the control session is lost: " + config.OnClientLost, true);
            if (config.OnClientLost == "cancel_entries")
            {
                orders.CancelEntries("client lost");
            }
            else if (config.OnClientLost == "flatten")
            {
                foreach (string name in config.Accounts.Keys)
                {
                    if (config.Accounts[name] == "auto")
                    {
                        orders.StartFlatten(name, null, "client lost", null, true);
                    }
                }
            }
        }

        /// <summary>Enforce the group's hard limits, also while no client is connected.</summary>
        private void CheckLimits()
        {
            foreach (string name in config.Accounts.Keys)
            {
                Account account = FindAccount(name);
                if (account == null || config.Accounts[name] == "off")
                {
                    continue;
                }
                bool position = false;
                lock (account.Positions)
                {
                    foreach (Position p in account.Positions)
                    {
                        position = position || p.MarketPosition != MarketPosition.Flat;
                    }
                }
                decimal high;
                string day;
                if (risk.NoteEquity(name, Values(name).NetLiquidation, clock.NowMs(), out high, out day))
                {
                    journal.Append(new FKSObject().Set("r", "highest").Set("account", name).Set("value", high).Set("day", day));
                }
                FKSRefusal breach = risk.Breach(name, Values(name), position || orders.HasWorkingEntry(name), clock.NowMs());
                if (breach == null)
                {
                    continue;
                }
                if (breach.Code != "news_block" && FKSRisk.IsOpen(clock.NowMs()) && !risk.IsBlocked(name, clock.NowMs()))
                {
                    risk.Block(name, clock.NowMs());
                    journal.Append(new FKSObject().Set("r", "block").Set("account", name).Set("day", FKSRisk.TradeDate(clock.NowMs())));
                }
                Emit("risk", new FKSObject().Set("account", name).Set("code", breach.Code).Set("detail", breach.Detail));
                Log(name + ": " + breach.Code + ": " + breach.Detail, true);
                if (config.Accounts[name] == "auto")
                {
                    orders.StartFlatten(name, null, breach.Code, null, true);
                }
            }
        }

        public void Alarm(string code, string detail)
        {
            Log(code + ": " + detail, true);
            if (journal != null && isReady)
            {
                Emit("risk", new FKSObject().Set("code", code).Set("detail", detail));
            }
        }

        // ================= status =================

        private void PushStatus()
        {
            foreach (FKSSession session in new List<FKSSession>(server.Sessions))
            {
                if (session.State == FKSSessionState.Ready && session.Role != "data")
                {
                    SendStatus(session, null);
                }
            }
        }

        /// <summary>Send the full snapshot; one that would not fit in a line is cut into parts.</summary>
        private void SendStatus(FKSSession session, string rid)
        {
            List<object> accounts = new List<object>();
            foreach (string name in config.Accounts.Keys)
            {
                Account account = FindAccount(name);
                if (account != null)
                {
                    accounts.Add(AccountStatus(account));
                }
            }
            List<object> open = orders.OpenSignals();
            FKSObject whole = Status(rid, accounts, open);
            if (FKSJson.Encode(FKSJson.Write(whole)).Length < FKSProtocol.LineMax - 64)
            {
                session.Send(whole);
                return;
            }
            List<FKSObject> parts = Cut(rid, accounts, open);
            for (int i = 0; i < parts.Count; i++)
            {
                session.Send(parts[i].Set("part", i + 1).Set("parts", parts.Count));
            }
        }

        private List<FKSObject> Cut(string rid, List<object> accounts, List<object> open)
        {
            List<FKSObject> parts = new List<FKSObject>();
            foreach (object item in accounts)
            {
                FKSObject account = (FKSObject)item;
                List<object> listed = account.List("orders");
                for (int start = 0; start == 0 || start < listed.Count; start += 100)
                {
                    FKSObject part = account.Copy().Set("orders", listed.GetRange(start, Math.Min(100, listed.Count - start)));
                    parts.Add(Status(rid, new List<object> { part }, new List<object>()));
                }
            }
            for (int start = 0; start < open.Count; start += 300)
            {
                parts.Add(Status(rid, new List<object>(), open.GetRange(start, Math.Min(300, open.Count - start))));
            }
            return parts;
        }

        private FKSObject Status(string rid, List<object> accounts, List<object> open)
        {
            FKSObject counters = new FKSObject().Set("last_seq", journal.LastSeq).Set("acked_seq", journal.AckedSeq).Set("sessions", server.Sessions.Count);
            return FKSProtocol.Message("status").Set("rid", rid).Set("at_ms", clock.NowMs()).Set("ready", isReady).Set("halted", journal.Halted).Set("accounts", accounts)
                .Set("signals_open", open).Set("features", Features()).Set("counters", counters).SetIf("journal_error", journal.Error);
        }

        private static List<object> Features()
        {
            List<object> made = new List<object>();
            lock (Connection.Connections)
            {
                foreach (Connection connection in Connection.Connections)
                {
                    foreach (Feature feature in connection.Features ?? new Feature[0])
                    {
                        if (!made.Contains(feature.ToString()))
                        {
                            made.Add(feature.ToString());
                        }
                    }
                }
            }
            return made;
        }

        private static readonly AccountItem[] Items =
        {
            AccountItem.CashValue, AccountItem.NetLiquidation, AccountItem.RealizedProfitLoss, AccountItem.UnrealizedProfitLoss, AccountItem.GrossRealizedProfitLoss,
            AccountItem.BuyingPower, AccountItem.InitialMargin, AccountItem.MaintenanceMargin, AccountItem.Commission, AccountItem.Fee
        };

        private FKSObject AccountStatus(Account account)
        {
            FKSObject numbers = new FKSObject();
            foreach (AccountItem item in Items)
            {
                numbers.Set(item.ToString(), Value(account.Name, item));
            }
            List<object> positions = new List<object>();
            lock (account.Positions)
            {
                foreach (Position p in account.Positions)
                {
                    string side = p.MarketPosition == MarketPosition.Long ? "long" : p.MarketPosition == MarketPosition.Short ? "short" : "flat";
                    positions.Add(new FKSObject().Set("instrument", FKSOrders.InstrumentName(p.Instrument)).Set("nt_name", p.Instrument.FullName).Set("side", side)
                        .Set("qty", p.Quantity).Set("avg", p.AveragePrice));
                }
            }
            List<object> listed = new List<object>();
            lock (account.Orders)
            {
                foreach (Order o in account.Orders)
                {
                    bool ended = o.OrderState == OrderState.Filled || o.OrderState == OrderState.Cancelled || o.OrderState == OrderState.Rejected;
                    if (!ended)
                    {
                        listed.Add(OrderStatus(o));
                    }
                }
            }
            numbers.Set("FksHighest", risk.Highest(account.Name)); // what a trailing limit counts from, which no broker reports
            Connection connection = account.Connection;
            bool simulation = FKSOrders.IsSimulation(account);
            return new FKSObject().Set("name", account.Name).Set("sim", simulation).Set("mode", risk.Mode(account.Name, simulation, clock.NowMs()))
                .Set("status", connection == null ? "Disconnected" : connection.Status.ToString())
                .Set("price_status", connection == null ? "Disconnected" : connection.PriceStatus.ToString()).Set("trade_date", FKSRisk.TradeDate(clock.NowMs()))
                .Set("values", numbers).Set("positions", positions).Set("orders", listed);
        }

        private static FKSObject OrderStatus(Order o)
        {
            bool buy = o.OrderAction == OrderAction.Buy || o.OrderAction == OrderAction.BuyToCover;
            return new FKSObject().Set("name", o.Name).Set("order_id", o.OrderId).Set("state", o.OrderState.ToString()).Set("side", buy ? "buy" : "sell")
                .Set("type", o.OrderType.ToString()).Set("qty", o.Quantity).Set("filled", o.Filled).Set("limit", o.LimitPrice).Set("stop", o.StopPrice).Set("oco", o.Oco)
                .Set("ours", FKSProtocol.ParseName(o.Name) != null);
        }

        // ================= for indicators and strategies =================

        private void MakeSnapshot()
        {
            FKSSnapshot made = new FKSSnapshot();
            made.Epoch = journal.Epoch;
            made.Port = server.BoundPort;
            made.LastSeq = journal.LastSeq;
            made.AckedSeq = journal.AckedSeq;
            made.Halted = journal.Halted;
            made.JournalError = journal.Error;
            made.Signals = new List<FKSSignalView>();
            made.Accounts = new List<string>();
            foreach (FKSSession session in server.Sessions)
            {
                made.HasControl = made.HasControl || (session.State == FKSSessionState.Ready && session.Role == "control");
                made.HasGuardian = made.HasGuardian || (session.State == FKSSessionState.Ready && session.Role == "guardian");
            }
            foreach (object item in orders.OpenSignals())
            {
                made.Unprotected += ((FKSObject)item).Flag("protected", true) ? 0 : 1;
            }
            foreach (FKSTrack t in orders.Active)
            {
                made.Signals.Add(new FKSSignalView
                {
                    Id = t.Signal.Id, Account = t.Signal.Account, Instrument = t.Signal.Instrument, Side = t.Signal.Action, State = t.Reported, Qty = t.Signal.Qty,
                    Filled = t.Filled, Entry = t.PriceUsed, Stop = t.SlUsed, Target = t.TpUsed, Note = t.Signal.Note
                });
            }
            foreach (string name in config.Accounts.Keys)
            {
                string status;
                lastStatus.TryGetValue(name, out status);
                made.Accounts.Add(name + " " + risk.Mode(name, FKSOrders.IsSimulation(FindAccount(name)), clock.NowMs()) + " " + (status ?? "absent").Replace("|", "/"));
            }
            snapshot = made;
        }

        /// <summary>Hand over a local signal of a strategy (keys as in the message `signal`); the answer is only logged. It is
        /// dropped while another one of this strategy works or is open in the account and contract.</summary>
        public void SubmitLocal(FKSObject signal)
        {
            Post(delegate
            {
                string name = "local signal " + signal.Text("id") + ": ";
                if (orders.IsTrading(signal.Text("strategy"), signal.Text("account"), signal.Text("instrument")))
                {
                    Log(name + "dropped, an earlier one works or is open", false);
                    return;
                }
                orders.Handle(signal, delegate(FKSObject answer)
                {
                    Log(name + answer.Text("t") + " " + (answer.Text("code") ?? answer.Text("state")) + (answer.Has("detail") ? ": " + answer.Text("detail") : ""), false);
                });
            });
        }

        /// <summary>Kill button of the status indicator.</summary>
        public void KillLocal(string reason)
        {
            Post(delegate { Kill(reason, delegate(FKSObject result) { Log("kill: flat " + result.Flag("flat", false), false); }); });
        }

        /// <summary>Resume button of the status indicator: lifts the kill latch and operator blocks.</summary>
        public void ResumeLocal(string reason)
        {
            Post(delegate
            {
                Halt(false, reason);
                orders.ConfirmAmbiguous();
            });
        }
    }
}
