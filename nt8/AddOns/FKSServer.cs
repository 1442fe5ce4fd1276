// TCP listener and sessions of the wire protocol fks1: line reader with a limit, mutual authentication, heartbeats and a
// bounded send queue. All session state changes happen on the bridge's worker thread; the socket threads only copy bytes.
using System;
using System.Collections.Generic;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Threading;

namespace NinjaTrader.NinjaScript.AddOns
{
    /// <summary>UTC and monotonic milliseconds. Time limits use TickMs, so that a corrected PC clock does not end sessions.</summary>
    public class FKSClock
    {
        private static readonly DateTime Start = new DateTime(1970, 1, 1, 0, 0, 0, DateTimeKind.Utc);
        private readonly System.Diagnostics.Stopwatch watch = System.Diagnostics.Stopwatch.StartNew();

        public virtual long NowMs()
        {
            return (long)(DateTime.UtcNow - Start).TotalMilliseconds;
        }

        public virtual long TickMs()
        {
            return watch.ElapsedMilliseconds;
        }

        public static DateTime Utc(long ms)
        {
            return Start.AddMilliseconds(ms);
        }

        public static long Ms(DateTime utc)
        {
            return (long)(utc - Start).TotalMilliseconds;
        }
    }

    public static class FKSThreads
    {
        /// <summary>Run the body of a thread or a handler: an exception that leaves it could end NinjaTrader itself.</summary>
        public static void Guard(string name, Action body)
        {
            try
            {
                body();
            }
            catch (Exception cause)
            {
                NinjaTrader.Code.Output.Process("FKS " + name + ": " + cause, PrintTo.OutputTab1);
            }
        }

        /// <summary>Run `body` again and again on a thread of the pool, until End.</summary>
        public static Timer Every(int ms, Action body)
        {
            return new Timer(delegate { Guard("timer", body); }, null, ms, ms);
        }

        public static void End(Timer timer)
        {
            if (timer != null)
            {
                timer.Dispose();
            }
        }
    }

    /// <summary>The bridge behind the server; every method is called on the worker thread.</summary>
    public interface IFKSApplication
    {
        string Epoch { get; }
        FKSObject Welcome();
        /// <summary>A session has authenticated: replay events, then push a status.</summary>
        void Opened(FKSSession session, string epoch, long lastSeq);
        void Received(FKSSession session, string type, FKSObject message);
        /// <summary>Handle a line of the seed form and return the answer.</summary>
        FKSObject Seed(FKSSession session, FKSObject message);
        void ControlLost();
        void Alarm(string code, string detail);
    }

    public enum FKSSessionState
    {
        Open, Challenged, Replaying, Ready, Seed, Closed
    }

    public sealed class FKSSession
    {
        public const int FirstLineMs = 5000;
        public const int SeedIdleMs = 60000;
        public const int ErrorsMax = 3;
        public const int ErrorsMs = 60000;

        private readonly FKSServer server;
        private readonly FKSConnection wire;
        private readonly string peer;
        private readonly bool loopback;
        private readonly Queue<long> errors = new Queue<long>();
        private FKSObject hello;
        private string nonce;
        private FKSLineMac incoming; // null: the lines of this session carry no MAC
        private long openedTick;
        private long sentTick;
        private long receivedTick;
        private long lines;
        private long pings;
        private long failAtTick = -1;
        private bool wasSuperseded;

        internal FKSSession(FKSServer server, FKSConnection wire, IPEndPoint remote)
        {
            this.server = server;
            this.wire = wire;
            peer = remote.Address.ToString();
            PeerPort = remote.Port;
            loopback = IPAddress.IsLoopback(remote.Address);
            openedTick = receivedTick = sentTick = server.Clock.TickMs();
            State = FKSSessionState.Open;
        }

        public FKSSessionState State { get; private set; }
        public string Role { get; private set; }

        public bool IsLoopback
        {
            get { return loopback; }
        }

        public bool IsAuthenticated
        {
            get { return State == FKSSessionState.Replaying || State == FKSSessionState.Ready; }
        }

        /// <summary>The peer's port and the number of lines handled, for diagnosis.</summary>
        public int PeerPort { get; private set; }

        public long Lines
        {
            get { return lines; }
        }

        /// <summary>True while the send queue is half full: what may be left out is left out.</summary>
        public bool IsCrowded
        {
            get { return wire.IsCrowded; }
        }

        /// <summary>Queue a line; it leaves when the journal of this turn is on the disk.</summary>
        public void Send(FKSObject message)
        {
            SendText(FKSJson.Write(message), false);
        }

        /// <summary>Queue a line that is on the disk.</summary>
        public void Send(string text)
        {
            SendText(text, false);
        }

        /// <summary>Queue the text of an event, which is dropped where the journal could not be written.</summary>
        public void SendEvent(string text)
        {
            SendText(text, true);
        }

        private void SendText(string text, bool durable)
        {
            if (State == FKSSessionState.Closed)
            {
                return;
            }
            sentTick = server.Clock.TickMs();
            if (!wire.Queue(FKSJson.Encode(text + "\n"), durable))
            {
                Drop();
                server.Application.Alarm("slow_consumer", "the send queue of " + (Role ?? "a session") + " is full");
            }
        }

        /// <summary>Send `bye` and close after it has left.</summary>
        public void Bye(string code, string detail, long retryAfterMs)
        {
            if (State != FKSSessionState.Closed)
            {
                Send(FKSProtocol.Bye(code, detail, retryAfterMs));
                Close();
            }
        }

        internal void Supersede()
        {
            wasSuperseded = true;
            Bye("superseded", "another session with the role " + Role + " has authenticated", 0);
        }

        /// <summary>Close after the queued lines have left.</summary>
        public void Close()
        {
            End();
            wire.CloseAfterSend();
        }

        private void Drop()
        {
            End();
            wire.Abort();
        }

        private void End()
        {
            bool lost = IsAuthenticated && Role == "control" && !wasSuperseded;
            State = FKSSessionState.Closed;
            server.Remove(this);
            if (lost)
            {
                server.Application.ControlLost();
            }
        }

        public void MarkReady()
        {
            if (State == FKSSessionState.Replaying)
            {
                State = FKSSessionState.Ready;
            }
        }

        internal void Release(bool durable)
        {
            wire.Release(durable);
        }

        // ---- input, on the worker thread ----

        internal void Ended(bool orderly, byte[] rest)
        {
            if (State == FKSSessionState.Closed)
            {
                return;
            }
            if (orderly && rest.Length > 0 && (State == FKSSessionState.Open || State == FKSSessionState.Seed))
            {
                Unterminated(rest);
            }
            if (State != FKSSessionState.Closed)
            {
                Close();
            }
        }

        /// <summary>A seed client may close its sending side without LF: one complete object then counts as a line.</summary>
        private void Unterminated(byte[] rest)
        {
            FKSObject found = null;
            try
            {
                found = FKSJson.ParseObject(FKSJson.Decode(rest, 0, rest.Length));
            }
            catch (FKSJsonException)
            {
                return;
            }
            if (!found.Has("t") && found.Has("action"))
            {
                Send(server.Application.Seed(this, found));
            }
        }

        /// <summary>Bytes came. Where lines carry a MAC only a whole line counts: other bytes may be of a program in between that
        /// holds the lines back.</summary>
        internal void Alive()
        {
            if (incoming == null)
            {
                receivedTick = server.Clock.TickMs();
            }
        }

        internal void TooLong()
        {
            if (IsAuthenticated)
            {
                Bye("line_too_long", "a line has more than " + FKSProtocol.LineMax + " bytes", 0);
            }
            else if (State != FKSSessionState.Closed)
            {
                Close();
            }
        }

        internal void Line(byte[] line)
        {
            if (State == FKSSessionState.Closed || failAtTick >= 0)
            {
                return;
            }
            lines++;
            if (incoming != null)
            {
                line = incoming.Open(line);
                if (line == null)
                {
                    Forged();
                    return;
                }
                receivedTick = server.Clock.TickMs();
            }
            FKSObject m;
            try
            {
                m = FKSJson.ParseObject(FKSJson.Decode(line, 0, line.Length));
            }
            catch (FKSJsonException cause)
            {
                Misread("bad_json", cause.Message);
                return;
            }
            switch (State)
            {
                case FKSSessionState.Open:
                    First(m);
                    break;
                case FKSSessionState.Challenged:
                    Authenticate(m);
                    break;
                case FKSSessionState.Seed:
                    if (m.Has("t") || !m.Has("action"))
                    {
                        Close();
                        return;
                    }
                    Send(server.Application.Seed(this, m));
                    break;
                default:
                    Message(m);
                    break;
            }
        }

        private void Forged()
        {
            if (!IsAuthenticated)
            {
                Refuse();
                return;
            }
            string detail = "line " + lines + " does not have its MAC: lines were changed on the way";
            Bye("forged_line", detail, 0);
            server.Application.Alarm("forged_line", detail + " from " + peer);
        }

        private void Refuse()
        {
            server.AuthenticationFailed(peer);
            failAtTick = server.Clock.TickMs() + 1000;
        }

        private void First(FKSObject m)
        {
            if (!m.Has("t") && m.Has("action"))
            {
                State = FKSSessionState.Seed;
                Send(server.Application.Seed(this, m));
                return;
            }
            if (m.Text("t") != "hello")
            {
                Close();
                return;
            }
            FKSRefusal refusal = FKSProtocol.CheckHello(m);
            if (refusal != null)
            {
                Bye(refusal.Code, refusal.Detail, 60000);
                return;
            }
            hello = m;
            nonce = FKSProtocol.RandomHex(32);
            if (FKSProtocol.IsMarked(hello.Text("nonce")))
            {
                nonce = FKSProtocol.Marked(nonce);
                incoming = FKSProtocol.LineMac(server.Config.Secret, "client", nonce, hello);
            }
            State = FKSSessionState.Challenged;
            openedTick = server.Clock.TickMs();
            Send(FKSProtocol.Message("challenge").Set("v", FKSProtocol.Version).Set("nonce", nonce).Set("bridge", FKSProtocol.Bridge).Set("alg", "hmac-sha256"));
        }

        private void Authenticate(FKSObject m)
        {
            FKSConfig config = server.Config;
            string expected = FKSProtocol.ClientMac(config.Secret, nonce, hello.Text("nonce"), hello.Text("instance"), hello.Text("group"));
            bool good = m.Text("t") == "auth" && FKSProtocol.SameText(expected, m.Text("mac")) && hello.Text("group") == config.Group;
            string epoch = m.Text("epoch");
            good = good && (epoch == null || FKSProtocol.IsHex(epoch, 32)) && m.Long("last_seq", -1) >= 0;
            if (!good)
            {
                Refuse();
                return;
            }
            Role = hello.Text("role");
            State = FKSSessionState.Replaying;
            wire.Authenticated(incoming == null ? null : FKSProtocol.LineMac(config.Secret, "bridge", nonce, hello));
            server.Supersede(this);
            string current = server.Application.Epoch;
            FKSObject welcome = FKSProtocol.Message("welcome").Set("mac", FKSProtocol.BridgeMac(config.Secret, nonce, hello.Text("nonce"), current, config.Group));
            FKSObject rest = server.Application.Welcome();
            foreach (string key in rest.Keys)
            {
                welcome.Set(key, rest.Get(key));
            }
            Send(welcome);
            server.Application.Opened(this, epoch, m.Long("last_seq", 0));
        }

        private void Message(FKSObject m)
        {
            string type = m.Text("t");
            if (!m.Has("t") && m.Has("action"))
            {
                Send(server.Application.Seed(this, m));
                return;
            }
            switch (type)
            {
                case "ping":
                    Send(FKSProtocol.Message("pong").Set("n", m.Get("n")).Set("t_ms", server.Clock.NowMs()).Set("echo_ms", m.Get("t_ms")));
                    break;
                case "pong":
                    break;
                case "bye":
                    Close();
                    break;
                case "signal":
                case "query":
                case "cancel":
                case "modify":
                case "flatten":
                case "kill":
                case "resume":
                case "status":
                case "evack":
                case "subscribe":
                case "unsubscribe":
                case "history":
                    server.Application.Received(this, type, m);
                    break;
                default:
                    Misread("unknown_type", "the message type is unknown");
                    break;
            }
        }

        private void Misread(string code, string detail)
        {
            if (!IsAuthenticated)
            {
                Close();
                return;
            }
            long now = server.Clock.TickMs();
            Send(FKSProtocol.Error(code, detail, lines));
            errors.Enqueue(now);
            while (errors.Count > 0 && now - errors.Peek() > ErrorsMs)
            {
                errors.Dequeue();
            }
            if (errors.Count >= ErrorsMax)
            {
                Bye("too_many_errors", "3 lines within 60 s were not understood", 5000);
            }
        }

        internal void Tick()
        {
            long now = server.Clock.TickMs();
            if (failAtTick >= 0)
            {
                if (now >= failAtTick)
                {
                    Bye("auth_failed", "the message authentication code does not match: compare secret.key and the group on both sides", 60000);
                }
                return;
            }
            switch (State)
            {
                case FKSSessionState.Open:
                case FKSSessionState.Challenged:
                    if (now - openedTick >= FirstLineMs)
                    {
                        Close();
                    }
                    break;
                case FKSSessionState.Seed:
                    if (now - receivedTick >= SeedIdleMs)
                    {
                        Close();
                    }
                    break;
                case FKSSessionState.Ready:
                case FKSSessionState.Replaying:
                    if (now - receivedTick > 3L * server.Config.HbMs)
                    {
                        Drop();
                    }
                    else if (now - sentTick >= server.Config.HbMs)
                    {
                        Send(FKSProtocol.Message("ping").Set("n", ++pings).Set("t_ms", server.Clock.NowMs()));
                    }
                    break;
            }
        }
    }

    /// <summary>One socket with a reader and a writer thread. The reader posts complete lines; the writer empties a bounded queue.</summary>
    public sealed class FKSConnection
    {
        public const int LinesMax = 10000;
        public const int BytesMax = 8 * 1024 * 1024;
        public const int UnhandledMax = 256;
        public const int WriteMs = 10000;
        public const int LingerMs = 2000;

        private readonly FKSServer server;
        private readonly Socket socket;
        private readonly object gate = new object();
        private readonly Queue<byte[]> ready = new Queue<byte[]>();
        private readonly List<KeyValuePair<byte[], bool>> waiting = new List<KeyValuePair<byte[], bool>>();
        private readonly SemaphoreSlim unhandled = new SemaphoreSlim(UnhandledMax);
        private int queuedBytes;
        private int queuedLines;
        private volatile bool closing;
        private volatile bool aborted;
        private FKSLineMac outgoing;
        private volatile int lineMax = FKSProtocol.LineMaxUnauthenticated;

        internal FKSConnection(FKSServer server, Socket socket)
        {
            this.server = server;
            this.socket = socket;
            socket.NoDelay = true;
            socket.SendTimeout = WriteMs;
        }

        internal void Start(FKSSession session)
        {
            Thread reader = new Thread(delegate() { FKSThreads.Guard("reader", delegate { Read(session); }); });
            Thread writer = new Thread(delegate() { FKSThreads.Guard("writer", Write); });
            reader.IsBackground = writer.IsBackground = true;
            reader.Name = "FKS reader";
            writer.Name = "FKS writer";
            reader.Start();
            writer.Start();
        }

        /// <summary>Take longer lines from now on, and put `mac` on each line that leaves; null: none.</summary>
        internal void Authenticated(FKSLineMac mac)
        {
            lock (gate)
            {
                outgoing = mac;
                lineMax = FKSProtocol.LineMax + (mac == null ? 0 : FKSLineMac.Length);
            }
        }

        internal bool IsCrowded
        {
            get
            {
                lock (gate)
                {
                    return queuedLines > LinesMax / 2 || queuedBytes > BytesMax / 2;
                }
            }
        }

        /// <summary>Hold a line until Release; false where the queue is full.</summary>
        internal bool Queue(byte[] line, bool durable)
        {
            lock (gate)
            {
                if (queuedLines >= LinesMax || queuedBytes + line.Length > BytesMax)
                {
                    return false;
                }
                queuedLines++;
                queuedBytes += line.Length;
                waiting.Add(new KeyValuePair<byte[], bool>(line, durable));
                return true;
            }
        }

        /// <summary>Hand the held lines to the writer; without `durable` lines that need the journal are dropped.</summary>
        internal void Release(bool durable)
        {
            lock (gate)
            {
                foreach (KeyValuePair<byte[], bool> held in waiting)
                {
                    if (durable || !held.Value)
                    {
                        byte[] line = outgoing == null ? held.Key : outgoing.Seal(held.Key);
                        queuedBytes += line.Length - held.Key.Length;
                        ready.Enqueue(line);
                    }
                    else
                    {
                        queuedLines--;
                        queuedBytes -= held.Key.Length;
                    }
                }
                waiting.Clear();
                Monitor.PulseAll(gate);
            }
        }

        internal void CloseAfterSend()
        {
            lock (gate)
            {
                closing = true;
                Monitor.PulseAll(gate);
            }
        }

        internal void Abort()
        {
            aborted = true;
            lock (gate)
            {
                closing = true;
                Monitor.PulseAll(gate);
            }
            Shut();
        }

        private void Shut()
        {
            try
            {
                socket.Close();
            }
            catch (SocketException)
            {
                aborted = true; // the socket was already closed by the peer
            }
        }

        private void Write()
        {
            try
            {
                while (true)
                {
                    byte[] line = null;
                    lock (gate)
                    {
                        while (ready.Count == 0 && !(closing && waiting.Count == 0) && !aborted)
                        {
                            Monitor.Wait(gate);
                        }
                        if (aborted || ready.Count == 0)
                        {
                            break;
                        }
                        line = ready.Dequeue();
                        queuedLines--;
                        queuedBytes -= line.Length;
                    }
                    int sent = 0;
                    while (sent < line.Length)
                    {
                        sent += socket.Send(line, sent, line.Length - sent, SocketFlags.None);
                    }
                }
                if (!aborted)
                {
                    socket.Shutdown(SocketShutdown.Send);
                    socket.ReceiveTimeout = LingerMs; // the reader empties the socket: closing with unread bytes would reset and lose the bye
                    System.Diagnostics.Stopwatch watch = System.Diagnostics.Stopwatch.StartNew();
                    while (!readerDone && watch.ElapsedMilliseconds < LingerMs)
                    {
                        Thread.Sleep(5);
                    }
                }
            }
            catch (SocketException)
            {
                aborted = true; // the reader reports the end
            }
            catch (ObjectDisposedException)
            {
                aborted = true;
            }
            Shut();
        }

        private volatile bool readerDone;
        private int aliveIsPosted;

        private void Read(FKSSession session)
        {
            byte[] buffer = new byte[16384];
            byte[] held = new byte[FKSProtocol.LineMax + FKSLineMac.Length + 1];
            int count = 0;
            bool orderly = false;
            bool tooLong = false;
            try
            {
                while (true)
                {
                    int got = socket.Receive(buffer);
                    if (got == 0)
                    {
                        orderly = true;
                        break;
                    }
                    if (closing || tooLong)
                    {
                        continue;
                    }
                    if (Interlocked.Exchange(ref aliveIsPosted, 1) == 0)
                    {
                        server.Post(delegate
                        {
                            aliveIsPosted = 0;
                            session.Alive();
                        });
                    }
                    for (int i = 0; i < got && !tooLong; i++)
                    {
                        if (buffer[i] != (byte)'\n')
                        {
                            held[count++] = buffer[i];
                            tooLong = count >= lineMax;
                            continue;
                        }
                        int length = count > 0 && held[count - 1] == (byte)'\r' ? count - 1 : count;
                        count = 0;
                        if (length > 0)
                        {
                            byte[] line = new byte[length];
                            Buffer.BlockCopy(held, 0, line, 0, length);
                            unhandled.Wait();
                            server.Post(delegate { Handle(session, line); });
                        }
                    }
                    if (tooLong)
                    {
                        count = 0;
                        server.Post(session.TooLong);
                    }
                }
            }
            catch (SocketException)
            {
                orderly = false;
            }
            catch (ObjectDisposedException)
            {
                orderly = false;
            }
            readerDone = true;
            byte[] rest = new byte[count];
            Buffer.BlockCopy(held, 0, rest, 0, count);
            server.Post(delegate { session.Ended(orderly, rest); });
        }

        private void Handle(FKSSession session, byte[] line)
        {
            try
            {
                session.Line(line);
            }
            finally
            {
                unhandled.Release();
            }
        }
    }

    public sealed class FKSServer
    {
        public const int ConnectionsMax = 8;
        public const int UnauthenticatedMax = 3;
        public const int ObserversMax = 4;
        public const int DataMax = 2;
        public const int FailuresMax = 5;
        public const int FailuresMs = 60000;

        private readonly Action<Action> post;
        private readonly List<FKSSession> sessions = new List<FKSSession>();
        private readonly Dictionary<string, Queue<long>> failures = new Dictionary<string, Queue<long>>();
        private readonly Dictionary<string, long> refusedUntil = new Dictionary<string, long>();
        private Socket listener;
        private int openSockets;

        public FKSServer(FKSConfig config, FKSClock clock, IFKSApplication application, Action<Action> post)
        {
            Config = config;
            Clock = clock;
            Application = application;
            this.post = post;
        }

        public FKSConfig Config { get; private set; }
        public FKSClock Clock { get; private set; }
        public IFKSApplication Application { get; private set; }
        public int BoundPort { get; private set; }

        public IList<FKSSession> Sessions
        {
            get { return sessions; }
        }

        internal void Post(Action action)
        {
            post(action);
        }

        /// <summary>Bind the first free of the two ports and accept. False where both are in use.</summary>
        public bool Listen()
        {
            foreach (int port in new[] { Config.Port, Config.PortFallback })
            {
                Socket made = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
                try
                {
                    Exclusive(made);
                    made.Bind(new IPEndPoint(IPAddress.Parse(Config.Bind), port));
                    made.Listen(16);
                }
                catch (SocketException)
                {
                    made.Close();
                    continue;
                }
                listener = made;
                BoundPort = port;
                Thread accept = new Thread(delegate() { FKSThreads.Guard("accept", delegate { Accept(made); }); });
                accept.IsBackground = true;
                accept.Name = "FKS accept";
                accept.Start();
                return true;
            }
            return false;
        }

        /// <summary>No other program may bind the port beside the bridge. On Unix the option means something else: there an old
        /// connection of an ended process must not block the port.</summary>
        private static void Exclusive(Socket made)
        {
            if (Environment.OSVersion.Platform == PlatformID.Unix)
            {
                made.SetSocketOption(SocketOptionLevel.Socket, SocketOptionName.ReuseAddress, true);
            }
            else
            {
                made.ExclusiveAddressUse = true;
            }
        }

        private void Accept(Socket mine)
        {
            while (true)
            {
                Socket found;
                try
                {
                    found = mine.Accept();
                }
                catch (SocketException)
                {
                    if (listener != mine)
                    {
                        return;
                    }
                    Thread.Sleep(50); // out of descriptors: do not spin
                    continue;
                }
                catch (ObjectDisposedException)
                {
                    return;
                }
                if (Interlocked.Increment(ref openSockets) > ConnectionsMax + 8)
                {
                    Interlocked.Decrement(ref openSockets);
                    found.Close();
                    continue;
                }
                Post(delegate { Admit(found); });
            }
        }

        private void Admit(Socket made)
        {
            Interlocked.Decrement(ref openSockets);
            IPEndPoint remote;
            try
            {
                remote = (IPEndPoint)made.RemoteEndPoint;
            }
            catch (SocketException)
            {
                made.Close();
                return;
            }
            int open = 0;
            foreach (FKSSession session in sessions)
            {
                open += session.IsAuthenticated ? 0 : 1;
            }
            long until;
            bool refused = refusedUntil.TryGetValue(remote.Address.ToString(), out until) && Clock.TickMs() < until;
            if (refused || listener == null || sessions.Count >= ConnectionsMax || open >= UnauthenticatedMax)
            {
                made.Close();
                return;
            }
            FKSConnection wire = new FKSConnection(this, made);
            FKSSession found = new FKSSession(this, wire, remote);
            sessions.Add(found);
            wire.Start(found);
        }

        internal void Remove(FKSSession session)
        {
            sessions.Remove(session);
            closing.Add(session);
        }

        private readonly List<FKSSession> closing = new List<FKSSession>();

        internal void AuthenticationFailed(string peer)
        {
            Queue<long> times;
            if (!failures.TryGetValue(peer, out times))
            {
                failures[peer] = times = new Queue<long>();
            }
            long now = Clock.TickMs();
            times.Enqueue(now);
            while (times.Count > 0 && now - times.Peek() > FailuresMs)
            {
                times.Dequeue();
            }
            if (times.Count >= FailuresMax)
            {
                times.Clear();
                refusedUntil[peer] = now + FailuresMs;
                Application.Alarm("auth_failed", "5 failed authentications of " + peer + " within 60 s; refused for 60 s");
            }
        }

        /// <summary>End older sessions that the new one replaces.</summary>
        internal void Supersede(FKSSession made)
        {
            int most = made.Role == "observe" ? ObserversMax : made.Role == "data" ? DataMax : 1;
            List<FKSSession> same = sessions.FindAll(delegate(FKSSession s) { return s != made && s.IsAuthenticated && s.Role == made.Role; });
            for (int i = 0; i <= same.Count - most; i++)
            {
                same[i].Supersede();
            }
        }

        /// <summary>Send an event to every session that reads the event log and has had its replay.</summary>
        public void Broadcast(string text)
        {
            foreach (FKSSession session in sessions.ToArray())
            {
                if (session.State == FKSSessionState.Ready && session.Role != "data")
                {
                    session.SendEvent(text);
                }
            }
        }

        public FKSSession Control()
        {
            return sessions.Find(delegate(FKSSession s) { return s.IsAuthenticated && s.Role == "control"; });
        }

        public void Tick()
        {
            foreach (FKSSession session in sessions.ToArray())
            {
                session.Tick();
            }
        }

        /// <summary>Let the lines of this turn leave; `durable` is false where the journal could not be written.</summary>
        public void Release(bool durable)
        {
            foreach (FKSSession session in sessions)
            {
                session.Release(durable);
            }
            foreach (FKSSession session in closing)
            {
                session.Release(durable);
            }
            closing.Clear();
        }

        public void Stop()
        {
            Socket found = listener;
            listener = null;
            if (found != null)
            {
                found.Close();
            }
            foreach (FKSSession session in sessions.ToArray())
            {
                session.Bye("shutdown", "the bridge ends", 2000);
            }
            Release(true);
        }
    }
}
