// Simulated base classes of NinjaScript and the few WPF types that the status indicator uses.
using System;
using System.Collections.Generic;
using System.Collections.ObjectModel;
using NinjaTrader.Cbi;

namespace System.Windows
{
    public enum MessageBoxButton { OK, YesNo }
    public enum MessageBoxResult { None, OK, Yes, No }

    public enum HorizontalAlignment { Left, Center, Right, Stretch }
    public enum VerticalAlignment { Top, Center, Bottom, Stretch }

    public class FrameworkElement
    {
        public HorizontalAlignment HorizontalAlignment { get; set; }
        public VerticalAlignment VerticalAlignment { get; set; }

        public FrameworkElement()
        {
            HorizontalAlignment = HorizontalAlignment.Stretch;
            VerticalAlignment = VerticalAlignment.Stretch;
        }
    }

    public class Window : FrameworkElement
    {
    }

    public class RoutedEventArgs : EventArgs
    {
    }

    public delegate void RoutedEventHandler(object sender, RoutedEventArgs e);

    public static class MessageBox
    {
        internal static MessageBoxResult Answer = MessageBoxResult.Yes;

        public static MessageBoxResult Show(string text, string caption, MessageBoxButton button)
        {
            return Answer;
        }
    }
}

namespace System.Windows.Controls
{
    public class Button : System.Windows.FrameworkElement
    {
        public event System.Windows.RoutedEventHandler Click;
        public object Content { get; set; }

        internal void Press()
        {
            if (Click != null)
            {
                Click(this, new System.Windows.RoutedEventArgs());
            }
        }

        internal int Handlers { get { return Sim.Count(Click); } }
    }

    public class StackPanel : System.Windows.FrameworkElement
    {
        private readonly Collection<System.Windows.FrameworkElement> children = new Collection<System.Windows.FrameworkElement>();
        public Collection<System.Windows.FrameworkElement> Children { get { return children; } }
    }
}

namespace System.Windows.Media
{
    public class Brush
    {
    }

    public static class Brushes
    {
        private static readonly Brush one = new Brush();
        public static Brush DodgerBlue { get { return one; } }
        public static Brush Gold { get { return one; } }
        public static Brush Gray { get { return one; } }
        public static Brush Green { get { return one; } }
        public static Brush Red { get { return one; } }
        public static Brush Transparent { get { return one; } }
        public static Brush White { get { return one; } }
    }
}

namespace System.Windows.Threading
{
    public class Dispatcher
    {
        /// <summary>The real method waits for the UI thread and can block for ever while scripts load: using it is a fault.</summary>
        public void Invoke(Action action)
        {
            Sim.Fault("Dispatcher.Invoke was called");
            action();
        }

        public void InvokeAsync(Action action)
        {
            System.Threading.ThreadPool.QueueUserWorkItem(delegate { action(); });
        }
    }
}

namespace NinjaTrader.Gui.Chart
{
    public class ChartControl : System.Windows.FrameworkElement
    {
        private readonly System.Windows.Threading.Dispatcher dispatcher = new System.Windows.Threading.Dispatcher();
        public System.Windows.Threading.Dispatcher Dispatcher { get { return dispatcher; } }
    }
}

namespace NinjaTrader.NinjaScript
{
    public enum State
    {
        Undefined = 0, SetDefaults = 1, Configure = 2, Active = 3, DataLoaded = 4, Historical = 5, Transition = 6, Realtime = 7, Terminated = 8, Finalized = 9
    }

    public enum PrintTo { OutputTab1, OutputTab2 }
    public enum Calculate { OnBarClose, OnEachTick, OnPriceChange }

    public enum ConnectionLossHandling { KeepRunning, Recalculate, StopStrategy }
    public enum StartBehavior { WaitUntilFlat, WaitUntilFlatSynchronizeAccount, ImmediatelySubmit, ImmediatelySubmitSynchronizeAccount, AdoptAccountPosition }

    [AttributeUsage(AttributeTargets.Property)]
    public class NinjaScriptPropertyAttribute : Attribute
    {
    }

    public abstract class NinjaScript
    {
        public string Description { get; set; }
        public string Name { get; set; }
        public State State { get; internal set; }

        public static void Log(string message, LogLevel level)
        {
            if (level == LogLevel.Alert)
            {
                Sim.Fault("LogLevel.Alert opens a dialog");
            }
            Sim.Printed("[" + level + "] " + message);
        }

        protected abstract void OnStateChange();

        internal void Enter(State state)
        {
            State = state;
            OnStateChange();
        }
    }

    public abstract class AddOnBase : NinjaScript
    {
        protected virtual void OnWindowCreated(System.Windows.Window window)
        {
        }

        protected virtual void OnWindowDestroyed(System.Windows.Window window)
        {
        }
    }

    public class Series
    {
        internal readonly List<double> Values = new List<double>();
        public double this[int barsAgo] { get { return Values[Values.Count - 1 - barsAgo]; } }
    }

    public class TimeSeries
    {
        internal readonly List<DateTime> Values = new List<DateTime>();
        public DateTime this[int barsAgo] { get { return Values[Values.Count - 1 - barsAgo]; } }
    }

    public abstract class NinjaScriptBase : NinjaScript
    {
        private readonly Series close = new Series();
        private readonly TimeSeries time = new TimeSeries();

        public NinjaTrader.Data.BarsPeriod BarsPeriod { get; internal set; }
        public Calculate Calculate { get; set; }
        public NinjaTrader.Gui.Chart.ChartControl ChartControl { get; internal set; }
        public Series Close { get { return close; } }
        public int CurrentBar { get { return close.Values.Count - 1; } }
        public Instrument Instrument { get; internal set; }
        public bool IsFirstTickOfBar { get; internal set; }
        public bool IsOverlay { get; set; }
        public TimeSeries Time { get { return time; } }
        public Collection<System.Windows.FrameworkElement> UserControlCollection { get { return controls; } }

        private readonly Collection<System.Windows.FrameworkElement> controls = new Collection<System.Windows.FrameworkElement>();

        protected virtual void OnBarUpdate()
        {
        }

        protected void Print(object value)
        {
            Sim.Printed(Convert.ToString(value, System.Globalization.CultureInfo.InvariantCulture));
        }

        public void RemoveDrawObject(string tag)
        {
            Sim.Printed("remove " + tag);
        }

        protected void PlaySound(string path)
        {
            Sim.Printed("sound " + path);
        }

        public void TriggerCustomEvent(Action<object> action, object state)
        {
            if (State >= State.DataLoaded && State < State.Terminated)
            {
                action(state);
            }
        }

        internal void Bar(DateTime at, double price)
        {
            time.Values.Add(at);
            close.Values.Add(price);
            OnBarUpdate();
        }
    }
}

namespace NinjaTrader.NinjaScript.Indicators
{
    public abstract class Indicator : NinjaScriptBase
    {
    }
}

namespace NinjaTrader.NinjaScript.Strategies
{
    public abstract class Strategy : NinjaScriptBase
    {
        public Account Account { get; internal set; }
        public ConnectionLossHandling ConnectionLossHandling { get; set; }
        public StartBehavior StartBehavior { get; set; }
    }
}

namespace NinjaTrader.NinjaScript.DrawingTools
{
    public enum TextPosition { BottomLeft, BottomRight, Center, TopLeft, TopRight }

    public static class Draw
    {
        public static void TextFixed(NinjaScriptBase owner, string tag, string text, TextPosition position)
        {
            Sim.Printed("draw " + tag + ": " + text);
        }

        public static void HorizontalLine(NinjaScriptBase owner, string tag, double y, System.Windows.Media.Brush brush)
        {
            Sim.Printed("line " + tag + ": " + y.ToString(System.Globalization.CultureInfo.InvariantCulture));
        }
    }
}
