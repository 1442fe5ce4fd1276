// Market data for the bridge: last prices for price checks, and live trades, quotes and history for sessions of role data.
// Handlers copy values and enqueue; everything else runs on the worker thread.
using System;
using System.Collections.Generic;
using NinjaTrader.Cbi;
using NinjaTrader.Data;

namespace NinjaTrader.NinjaScript.AddOns
{
    public sealed class FKSMarket
    {
        public const int QuoteMs = 100;
        public const int StatusMs = 2000;
        public const long HistoryMsMax = 31L * 24 * 3600 * 1000;
        private const long DayMs = 24L * 3600 * 1000;

        private sealed class Feed
        {
            public string Name;
            public Instrument Instrument;
            public MarketData Data;
            public EventHandler<MarketDataEventArgs> Handler;
            public long Trades;
            public decimal? Last;
            public long LastMs;
            public long QuietTick;
            public readonly object Gate = new object();
            public double Bid;
            public long BidQty;
            public double Ask;
            public long AskQty;
            public bool IsPosted;
            public bool IsFresh;
            public long QuoteTick = -1000;
        }

        private sealed class Subscription
        {
            public bool Quotes;
        }

        private readonly FKSClock clock;
        private readonly Action<Action> post;
        private readonly Dictionary<string, Feed> feeds = new Dictionary<string, Feed>(StringComparer.Ordinal);
        private readonly Dictionary<FKSSession, Dictionary<string, Subscription>> subscriptions = new Dictionary<FKSSession, Dictionary<string, Subscription>>();
        private bool historyRuns;
        private volatile bool stopped;

        public FKSMarket(FKSClock clock, Action<Action> post)
        {
            this.clock = clock;
            this.post = post;
        }

        private Feed Open(Instrument instrument)
        {
            string name = FKSOrders.InstrumentName(instrument);
            Feed feed;
            if (feeds.TryGetValue(name, out feed))
            {
                return feed;
            }
            feed = new Feed { Name = name, Instrument = instrument, Data = new MarketData(instrument), QuietTick = clock.TickMs() };
            Feed made = feed;
            feed.Handler = delegate(object sender, MarketDataEventArgs e) { FKSThreads.Guard("market data event", delegate { OnUpdate(made, e); }); };
            feed.Data.Update += feed.Handler;
            feeds[name] = feed;
            return feed;
        }

        /// <summary>Last price and its age by the bridge's clock; null where the platform has none.</summary>
        public decimal? LastPrice(Instrument instrument, out long ageMs)
        {
            ageMs = 0;
            if (instrument == null)
            {
                return null;
            }
            Feed feed = Open(instrument);
            if (feed.Last == null)
            {
                MarketDataEventArgs last = feed.Data.Last;
                object price = last == null || last.Price <= 0 ? null : FKSJson.FromDouble(last.Price);
                if (price == null)
                {
                    return null;
                }
                feed.Last = (decimal)price;
                feed.LastMs = FKSOrders.PlatformMs(last.Time);
            }
            ageMs = Math.Max(0, clock.NowMs() - feed.LastMs);
            return feed.Last;
        }

        // ---- platform threads ----

        private void OnUpdate(Feed feed, MarketDataEventArgs e)
        {
            if (stopped || e.IsReset)
            {
                return;
            }
            if (e.MarketDataType == MarketDataType.Last)
            {
                double price = e.Price;
                double bid = e.Bid;
                double ask = e.Ask;
                long volume = e.Volume;
                DateTime time = e.Time;
                post(delegate { OnTrade(feed, price, volume, bid, ask, time); });
                return;
            }
            if (e.MarketDataType != MarketDataType.Bid && e.MarketDataType != MarketDataType.Ask)
            {
                return;
            }
            bool wake;
            lock (feed.Gate)
            {
                if (e.MarketDataType == MarketDataType.Bid)
                {
                    feed.Bid = e.Price;
                    feed.BidQty = e.Volume;
                }
                else
                {
                    feed.Ask = e.Price;
                    feed.AskQty = e.Volume;
                }
                feed.IsFresh = true;
                wake = !feed.IsPosted;
                feed.IsPosted = true;
            }
            if (wake)
            {
                post(delegate { OnQuote(feed); });
            }
        }

        // ---- worker thread ----

        private void OnTrade(Feed feed, double price, long volume, double bid, double ask, DateTime time)
        {
            object value = FKSJson.FromDouble(price);
            if (value == null)
            {
                return;
            }
            feed.Last = (decimal)value;
            feed.LastMs = clock.NowMs();
            feed.QuietTick = clock.TickMs();
            feed.Trades++;
            FKSObject line = FKSProtocol.Message("trade").Set("instrument", feed.Name).Set("n", feed.Trades).Set("at_ms", FKSOrders.PlatformMs(time)).Set("price", value).Set("qty", volume);
            bool known = bid > 0 || ask > 0;
            line.SetIf("side", known && ask > 0 && price >= ask ? "buy" : known && bid > 0 && price <= bid ? "sell" : null);
            foreach (KeyValuePair<FKSSession, Dictionary<string, Subscription>> pair in subscriptions)
            {
                if (pair.Value.ContainsKey(feed.Name))
                {
                    pair.Key.Send(line);
                }
            }
        }

        private void OnQuote(Feed feed)
        {
            FKSObject line;
            lock (feed.Gate)
            {
                feed.IsPosted = false;
                bool complete = feed.Bid > 0 && feed.Ask > 0 && feed.IsFresh;
                if (!complete || clock.TickMs() - feed.QuoteTick < QuoteMs)
                {
                    return;
                }
                feed.IsFresh = false;
                line = FKSProtocol.Message("quote").Set("instrument", feed.Name).Set("at_ms", clock.NowMs()).Set("bid", feed.Bid).Set("bid_qty", feed.BidQty)
                    .Set("ask", feed.Ask).Set("ask_qty", feed.AskQty);
            }
            feed.QuoteTick = clock.TickMs();
            foreach (KeyValuePair<FKSSession, Dictionary<string, Subscription>> pair in subscriptions)
            {
                Subscription found;
                if (pair.Value.TryGetValue(feed.Name, out found) && found.Quotes && !pair.Key.IsCrowded)
                {
                    pair.Key.Send(line);
                }
            }
        }

        private static string PriceStatus()
        {
            ConnectionStatus best = ConnectionStatus.Disconnected;
            lock (Connection.Connections)
            {
                foreach (Connection connection in Connection.Connections)
                {
                    if (connection.PriceStatus == ConnectionStatus.Connected)
                    {
                        return "Connected";
                    }
                    best = connection.PriceStatus;
                }
            }
            return best.ToString();
        }

        private void SendStatus(FKSSession session, string instrument)
        {
            session.Send(FKSProtocol.Message("md_status").Set("instrument", instrument).Set("price_status", PriceStatus()).Set("at_ms", clock.NowMs()));
        }

        /// <summary>A connection's price status changed: report it for every subscribed instrument.</summary>
        public void OnPriceStatus()
        {
            foreach (KeyValuePair<FKSSession, Dictionary<string, Subscription>> pair in subscriptions)
            {
                foreach (string name in pair.Value.Keys)
                {
                    SendStatus(pair.Key, name);
                }
            }
        }

        public void Tick()
        {
            foreach (FKSSession session in new List<FKSSession>(subscriptions.Keys))
            {
                if (session.State == FKSSessionState.Closed)
                {
                    subscriptions.Remove(session);
                }
            }
            long now = clock.TickMs();
            foreach (Feed feed in feeds.Values)
            {
                OnQuote(feed);
                if (now - feed.QuietTick < StatusMs)
                {
                    continue;
                }
                feed.QuietTick = now;
                foreach (KeyValuePair<FKSSession, Dictionary<string, Subscription>> pair in subscriptions)
                {
                    if (pair.Value.ContainsKey(feed.Name))
                    {
                        SendStatus(pair.Key, feed.Name);
                    }
                }
            }
        }

        public void Subscribe(FKSSession session, FKSObject m)
        {
            Dictionary<string, Subscription> mine;
            if (!subscriptions.TryGetValue(session, out mine))
            {
                subscriptions[session] = mine = new Dictionary<string, Subscription>(StringComparer.Ordinal);
            }
            List<string> unknown = new List<string>();
            List<string> known = new List<string>();
            foreach (object item in m.List("instruments"))
            {
                Instrument instrument = Known((string)item);
                if (instrument == null)
                {
                    unknown.Add((string)item);
                    continue;
                }
                Open(instrument);
                known.Add((string)item);
                mine[(string)item] = new Subscription { Quotes = m.Flag("quotes", false) };
            }
            FKSObject result = FKSProtocol.Result(m.Text("rid"), known.Count > 0);
            if (unknown.Count > 0)
            {
                result.Set("code", "unknown_instrument").Set("detail", "unknown: " + string.Join(", ", unknown.ToArray()));
            }
            session.Send(result);
            foreach (string name in known)
            {
                SendStatus(session, name);
            }
        }

        private static Instrument Known(string name)
        {
            string root;
            int year;
            int month;
            if (!FKSProtocol.ParseContract(name, out root, out year, out month) || FKSContracts.Find(root) == null)
            {
                return null;
            }
            Instrument found = Instrument.GetInstrument(name);
            return FKSOrders.InstrumentName(found) == name ? found : null;
        }

        public void Unsubscribe(FKSSession session, FKSObject m)
        {
            Dictionary<string, Subscription> mine;
            if (subscriptions.TryGetValue(session, out mine))
            {
                foreach (object item in m.List("instruments"))
                {
                    mine.Remove((string)item);
                }
            }
            session.Send(FKSProtocol.Result(m.Text("rid"), true));
        }

        // ---- history ----

        public void History(FKSSession session, FKSObject m)
        {
            string rid = m.Text("rid");
            long from = m.Long("from_ms", 0);
            long to = m.Long("to_ms", 0);
            string period = m.Text("period");
            Instrument instrument = Known(m.Text("instrument"));
            FKSRefusal refusal = null;
            if (instrument == null)
            {
                refusal = new FKSRefusal("unknown_instrument", "unknown: " + m.Text("instrument"));
            }
            else if ((period != "1m" && period != "1d") || to <= from || to - from > HistoryMsMax)
            {
                refusal = new FKSRefusal("bad_field", "period must be 1m or 1d, and from_ms to to_ms at most 31 days");
            }
            else if (historyRuns)
            {
                refusal = new FKSRefusal("rate_limited", "one history request at a time");
            }
            if (refusal != null)
            {
                session.Send(FKSProtocol.Refused(rid, refusal));
                return;
            }
            historyRuns = true;
            BarsRequest request = new BarsRequest(instrument, Local(from - DayMs), Local(to + DayMs)); // the platform rounds to whole days
            request.BarsPeriod = new BarsPeriod { BarsPeriodType = period == "1m" ? BarsPeriodType.Minute : BarsPeriodType.Day, MarketDataType = MarketDataType.Last, Value = 1 };
            request.MergePolicy = MergePolicy.DoNotMerge;
            request.TradingHours = TradingHours.Get("Default 24 x 7");
            string name = m.Text("instrument");
            request.Request(delegate(BarsRequest made, ErrorCode error, string text)
            {
                List<FKSObject> bars = null;
                FKSThreads.Guard("history", delegate { bars = error == ErrorCode.NoError && made.Bars != null ? CopyBars(made.Bars, rid, name, period, from, to) : null; });
                FKSThreads.Guard("history", made.Dispose);
                post(delegate { Answer(session, rid, bars, text); });
            });
        }

        private static DateTime Local(long ms)
        {
            return DateTime.SpecifyKind(TimeZoneInfo.ConvertTimeFromUtc(FKSClock.Utc(ms), NinjaTrader.Core.Globals.GeneralOptions.TimeZoneInfo), DateTimeKind.Unspecified);
        }

        private static List<FKSObject> CopyBars(Bars bars, string rid, string name, string period, long from, long to)
        {
            List<FKSObject> made = new List<FKSObject>();
            for (int i = 0; i < bars.Count; i++)
            {
                DateTime close = bars.GetTime(i);
                // a daily bar is stamped with its trade date; it opens at 17:00 US Central time of the day before
                long open = period == "1m" ? FKSOrders.PlatformMs(close) - 60000 : FKSRisk.CentralMs(close.Date.AddHours(-7));
                if (open >= from && open < to)
                {
                    made.Add(FKSProtocol.Message("bar").Set("rid", rid).Set("instrument", name).Set("at_ms", open).Set("o", bars.GetOpen(i)).Set("h", bars.GetHigh(i))
                        .Set("l", bars.GetLow(i)).Set("c", bars.GetClose(i)).Set("v", bars.GetVolume(i)));
                }
            }
            return made;
        }

        private void Answer(FKSSession session, string rid, List<FKSObject> bars, string text)
        {
            if (bars == null)
            {
                historyRuns = false;
                session.Send(FKSProtocol.Refused(rid, new FKSRefusal("not_connected", "the platform has no history: " + text)));
                return;
            }
            SendBars(session, rid, bars, 0);
        }

        /// <summary>Send bars in parts, so that a long history does not fill the send queue.</summary>
        private void SendBars(FKSSession session, string rid, List<FKSObject> bars, int start)
        {
            int end = session.IsCrowded ? start : Math.Min(bars.Count, start + 1000);
            for (int i = start; i < end; i++)
            {
                session.Send(bars[i]);
            }
            if (end < bars.Count && session.State != FKSSessionState.Closed && !stopped)
            {
                later.Add(delegate { SendBars(session, rid, bars, end); });
                return;
            }
            historyRuns = false;
            session.Send(FKSProtocol.Result(rid, true).Set("count", bars.Count));
        }

        private readonly List<Action> later = new List<Action>();

        /// <summary>Continue a long history; called once each turn.</summary>
        public void Continue()
        {
            if (later.Count > 0)
            {
                Action[] due = later.ToArray();
                later.Clear();
                foreach (Action action in due)
                {
                    action();
                }
            }
        }

        public void Stop()
        {
            stopped = true;
            foreach (Feed feed in feeds.Values)
            {
                feed.Data.Update -= feed.Handler;
            }
            feeds.Clear();
            subscriptions.Clear();
        }
    }
}
