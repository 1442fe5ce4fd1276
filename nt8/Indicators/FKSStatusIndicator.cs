// Shows connection, journal, kill latch and accounts of the bridge, with the buttons Kill and Resume. It sends no order.
using System.Globalization;
using System.Windows;
using System.Windows.Controls;
using NinjaTrader.NinjaScript.AddOns;
using NinjaTrader.NinjaScript.DrawingTools;

namespace NinjaTrader.NinjaScript.Indicators
{
    public class FKSStatusIndicator : Indicator
    {
        private const int RefreshMs = 1000; // also while no price moves
        private System.Threading.Timer timer;
        private StackPanel panel;
        private Button kill;
        private Button resume;

        protected override void OnStateChange()
        {
            if (State == State.SetDefaults)
            {
                Name = "FKSStatusIndicator";
                Description = "State of the FKS bridge, with the buttons Kill and Resume.";
                Calculate = Calculate.OnPriceChange;
                IsOverlay = true;
            }
            else if (State == State.Historical)
            {
                timer = FKSThreads.Every(RefreshMs, delegate { TriggerCustomEvent(delegate { Refresh(); }, null); });
                if (ChartControl != null)
                {
                    ChartControl.Dispatcher.InvokeAsync(AddButtons);
                }
            }
            else if (State == State.Terminated)
            {
                FKSThreads.End(timer);
                if (ChartControl != null)
                {
                    ChartControl.Dispatcher.InvokeAsync(RemoveButtons);
                }
            }
        }

        private void AddButtons()
        {
            if (panel != null)
            {
                return;
            }
            panel = new StackPanel();
            panel.HorizontalAlignment = HorizontalAlignment.Left; // the default stretches the buttons over the chart
            panel.VerticalAlignment = VerticalAlignment.Top;
            kill = new Button();
            resume = new Button();
            kill.Content = "FKS Kill";
            resume.Content = "FKS Resume";
            kill.Click += OnKill;
            resume.Click += OnResume;
            panel.Children.Add(kill);
            panel.Children.Add(resume);
            UserControlCollection.Add(panel);
        }

        private void RemoveButtons()
        {
            if (panel == null)
            {
                return;
            }
            kill.Click -= OnKill;
            resume.Click -= OnResume;
            UserControlCollection.Remove(panel);
            panel = null;
        }

        private static bool IsConfirmed(string question)
        {
            return MessageBox.Show(question, "FKS", MessageBoxButton.YesNo) == MessageBoxResult.Yes;
        }

        private void OnKill(object sender, RoutedEventArgs e)
        {
            FKSBridge bridge = FKSBridge.Current;
            if (bridge != null && IsConfirmed("Flatten all FKS accounts and refuse new signals until Resume?"))
            {
                bridge.KillLocal("button");
            }
        }

        private void OnResume(object sender, RoutedEventArgs e)
        {
            FKSBridge bridge = FKSBridge.Current;
            if (bridge != null && IsConfirmed("Accept new signals again?"))
            {
                bridge.ResumeLocal("button");
            }
        }

        protected override void OnBarUpdate()
        {
            Refresh();
        }

        private void Refresh()
        {
            FKSBridge bridge = FKSBridge.Current;
            FKSSnapshot s = bridge == null ? null : bridge.Snapshot;
            string text = "FKS: no bridge";
            if (s != null)
            {
                text = "FKS port " + s.Port.ToString(CultureInfo.InvariantCulture) + (s.HasControl ? " connected" : " NOT CONNECTED") + (s.HasGuardian ? ", guardian" : "")
                    + (s.Halted ? "\nHALTED" : "") + (s.JournalError == null ? "" : "\nNO JOURNAL, NO ENTRIES: " + s.JournalError) + "\nseq " + s.LastSeq.ToString(CultureInfo.InvariantCulture) + " stored " + s.AckedSeq.ToString(CultureInfo.InvariantCulture)
                    + " epoch " + s.Epoch.Substring(0, 8) + "\nsignals " + s.Signals.Count.ToString(CultureInfo.InvariantCulture)
                    + (s.Unprotected > 0 ? ", UNPROTECTED " + s.Unprotected.ToString(CultureInfo.InvariantCulture) : "") + "\n" + string.Join("\n", s.Accounts.ToArray());
            }
            Draw.TextFixed(this, "FKSStatus", text, TextPosition.BottomLeft);
        }
    }
}
