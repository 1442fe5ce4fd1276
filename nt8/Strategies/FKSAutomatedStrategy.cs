// Optional local trigger: a close above or below the range of the last bars is handed to the bridge as a signal.
// It places no order itself; the bridge's checks, brackets and risk gate apply as to every other signal. The bridge drops
// a signal while an earlier one of this strategy works or is open in the account and contract: one position at most.
using System;
using NinjaTrader.NinjaScript.AddOns;

namespace NinjaTrader.NinjaScript.Strategies
{
    public class FKSAutomatedStrategy : Strategy
    {
        protected override void OnStateChange()
        {
            if (State == State.SetDefaults)
            {
                Name = "FKSAutomatedStrategy";
                Description = "Hands a breakout of the last bars to the FKS bridge. It places no order itself.";
                Calculate = Calculate.OnBarClose;
                ConnectionLossHandling = ConnectionLossHandling.KeepRunning;
                StartBehavior = StartBehavior.ImmediatelySubmit; // it holds no orders of its own; never a value that synchronises the account
                BreakoutBars = 20;
                SignalQty = 1;
                StopPoints = 10;
                TargetPoints = 20;
            }
        }

        [NinjaScriptProperty]
        public int BreakoutBars { get; set; }

        [NinjaScriptProperty]
        public int SignalQty { get; set; }

        [NinjaScriptProperty]
        public double StopPoints { get; set; }

        [NinjaScriptProperty]
        public double TargetPoints { get; set; }

        protected override void OnBarUpdate()
        {
            // the bridge's orders are real in every state: nothing is handed over while history is processed
            if (State != State.Realtime || CurrentBar <= BreakoutBars || Account == null)
            {
                return;
            }
            double high = double.MinValue;
            double low = double.MaxValue;
            for (int i = 1; i <= BreakoutBars; i++)
            {
                high = Math.Max(high, Close[i]);
                low = Math.Min(low, Close[i]);
            }
            if (Close[0] > high)
            {
                Hand("buy");
            }
            else if (Close[0] < low)
            {
                Hand("sell");
            }
        }

        private void Hand(string action)
        {
            FKSBridge bridge = FKSBridge.Current;
            if (bridge == null)
            {
                Print("FKS: no bridge, the signal is dropped");
                return;
            }
            // one id per account, contract, timeframe, bar and side: a trigger that stays true is one signal
            string contract = FKSOrders.InstrumentName(Instrument);
            string id = FKSProtocol.LocalId(Account.Name + "|" + contract + "|" + BarsPeriod.BarsPeriodType + "|" + BarsPeriod.Value, Time[0], action);
            long now = bridge.Clock.NowMs();
            bridge.SubmitLocal(new FKSObject().Set("t", "signal").Set("id", id).Set("account", Account.Name).Set("instrument", contract)
                .Set("action", action).Set("qty", SignalQty).Set("type", "market").Set("sl_points", StopPoints).Set("tp_points", TargetPoints)
                .Set("created_ms", now).Set("valid_until", now + 30000).Set("strategy", "FKSAutomatedStrategy"));
        }
    }
}
