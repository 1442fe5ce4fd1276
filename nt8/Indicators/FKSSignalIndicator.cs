// Draws the signals of the chart's instrument: entry, stop, target and state. It only reads the bridge's snapshot.
using System;
using System.Collections.Generic;
using System.Globalization;
using System.Windows.Media;
using NinjaTrader.NinjaScript.AddOns;
using NinjaTrader.NinjaScript.DrawingTools;

namespace NinjaTrader.NinjaScript.Indicators
{
    public class FKSSignalIndicator : Indicator
    {
        private const int RefreshMs = 1000; // also while no price moves
        private System.Threading.Timer timer;
        private readonly HashSet<string> drawn = new HashSet<string>(StringComparer.Ordinal);

        protected override void OnStateChange()
        {
            if (State == State.SetDefaults)
            {
                Name = "FKSSignalIndicator";
                Description = "FKS signals of this instrument: entry, stop, target and state.";
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
            FKSBridge bridge = FKSBridge.Current; // null until the AddOn has started
            FKSSnapshot snapshot = bridge == null ? null : bridge.Snapshot;
            if (snapshot == null)
            {
                Draw.TextFixed(this, "FKS", "FKS: no bridge", TextPosition.TopRight);
                return;
            }
            string instrument = FKSOrders.InstrumentName(Instrument);
            HashSet<string> now = new HashSet<string>(StringComparer.Ordinal);
            List<string> lines = new List<string>();
            foreach (FKSSignalView view in snapshot.Signals)
            {
                if (view.Instrument != instrument)
                {
                    continue;
                }
                lines.Add(view.Id + " " + view.Side + " " + view.Qty.ToString(CultureInfo.InvariantCulture) + " " + view.State + " " + view.Account);
                Line(now, view.Id + "E", view.Entry, Brushes.DodgerBlue);
                Line(now, view.Id + "S", view.Stop, Brushes.Red);
                Line(now, view.Id + "T", view.Target, Brushes.Green);
            }
            foreach (string tag in drawn)
            {
                if (!now.Contains(tag))
                {
                    RemoveDrawObject(tag);
                }
            }
            drawn.Clear();
            drawn.UnionWith(now);
            Draw.TextFixed(this, "FKS", lines.Count == 0 ? "FKS: no signals" : string.Join("\n", lines.ToArray()), TextPosition.TopRight);
        }

        private void Line(HashSet<string> now, string tag, decimal? price, Brush brush)
        {
            if (price != null)
            {
                now.Add(tag);
                Draw.HorizontalLine(this, tag, (double)price.Value, brush);
            }
        }
    }
}
