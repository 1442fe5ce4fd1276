// Shows signals of relay accounts with text, sound and chart lines; a person then trades by hand.
// On purpose an indicator and not a strategy: nothing with an order method runs on a relay account.
using System;
using System.Collections.Generic;
using System.Globalization;
using System.Windows.Media;
using NinjaTrader.NinjaScript.AddOns;
using NinjaTrader.NinjaScript.DrawingTools;

namespace NinjaTrader.NinjaScript.Indicators
{
    public class FKSSignalRelay : Indicator
    {
        private const int RefreshMs = 1000; // also while no price moves
        private System.Threading.Timer timer;
        private readonly HashSet<string> shown = new HashSet<string>(StringComparer.Ordinal);

        protected override void OnStateChange()
        {
            if (State == State.SetDefaults)
            {
                Name = "FKSSignalRelay";
                Description = "Shows and sounds the FKS signals of accounts in mode relay. A person trades.";
                Calculate = Calculate.OnPriceChange;
                IsOverlay = true;
            }
            else if (State == State.Historical)
            {
                timer = FKSThreads.Every(RefreshMs, delegate { TriggerCustomEvent(delegate { Refresh(); }, null); });
            }
            else if (State == State.Terminated)
            {
                FKSThreads.End(timer);
            }
        }

        protected override void OnBarUpdate()
        {
            Refresh();
        }

        private void Refresh()
        {
            FKSBridge bridge = FKSBridge.Current;
            FKSSnapshot snapshot = bridge == null ? null : bridge.Snapshot;
            if (snapshot == null || State != State.Realtime)
            {
                return;
            }
            string instrument = FKSOrders.InstrumentName(Instrument);
            List<string> lines = new List<string>();
            foreach (FKSSignalView view in snapshot.Signals)
            {
                if (view.State == "relayed" && view.Instrument == instrument)
                {
                    lines.Add(Text(view));
                    Show(view);
                }
            }
            Draw.TextFixed(this, "FKSRelay", string.Join("\n", lines.ToArray()), TextPosition.Center);
        }

        private static string Text(FKSSignalView view)
        {
            return view.Account + ": " + view.Side + " " + view.Qty.ToString(CultureInfo.InvariantCulture) + " " + view.Instrument + At(" at ", view.Entry)
                + At(" stop ", view.Stop) + At(" target ", view.Target) + (view.Note == null ? "" : " (" + view.Note + ")");
        }

        private static string At(string label, decimal? price)
        {
            return price == null ? "" : label + price.Value.ToString(CultureInfo.InvariantCulture);
        }

        private void Show(FKSSignalView view)
        {
            if (!shown.Add(view.Id))
            {
                return;
            }
            Print("FKS relay shown " + DateTime.UtcNow.ToString("o", CultureInfo.InvariantCulture) + " " + view.Id + " " + Text(view));
            PlaySound(NinjaTrader.Core.Globals.InstallDir + @"\sounds\Alert1.wav");
            if (view.Entry != null)
            {
                Draw.HorizontalLine(this, "FKSRelay" + view.Id, (double)view.Entry.Value, Brushes.Gold);
            }
        }
    }
}
