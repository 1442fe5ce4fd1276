using System.Collections.Generic;
using System.IO;
using NinjaTrader.NinjaScript.AddOns;

namespace FKS.Tests
{
    public static class JournalTests
    {
        private static string FileOf(string folder)
        {
            return Directory.GetFiles(folder, "journal-*.log")[0];
        }

        private static string Filled(string folder)
        {
            using (FKSJournal made = FKSJournal.Open(folder, 1000))
            {
                made.AppendEvent("signal", new FKSObject().Set("id", "a").Set("state", "submitted"), 1001);
                made.AppendEvent("signal", new FKSObject().Set("id", "a").Set("state", "open"), 1002);
                made.AppendEvent("exec", new FKSObject().Set("account", "Sim101").Set("exec_id", "X1").Set("op", "add"), 1002);
                Check.Equal(true, made.HasExecution("Sim101", "X1"));
                made.AppendHalt(true, "test", 1003);
                Check.Equal(true, made.Flush(0));
                made.Acknowledge(1, 1004);
                Check.Equal(true, made.Flush(0));
                return made.Epoch;
            }
        }

        public static void ReopenedJournalHoldsTheSame()
        {
            string folder = Folder.New();
            string epoch = Filled(folder);
            using (FKSJournal found = FKSJournal.Open(folder, 2000))
            {
                Check.Equal(epoch, found.Epoch);
                Check.Equal(3L, found.LastSeq);
                Check.Equal(1L, found.OldestSeq);
                Check.Equal(1L, found.AckedSeq);
                Check.Equal(true, found.Halted);
                Check.Equal(true, found.HasExecution("Sim101", "X1"));
                Check.Equal(false, found.HasExecution("Sim102", "X1"));
                Check.Equal(3, found.Events.Count);
                Check.Equal("open", FKSJson.ParseObject(found.Events[1].Text).Text("state"));
                Check.Equal(true, FKSJson.ParseObject(found.Events[1].Replayed()).Flag("replay", false));
                Check.Equal(4L, found.AppendEvent("halt", new FKSObject(), 2001).Seq);
            }
        }

        public static void TornLastLineIsCut()
        {
            string folder = Folder.New();
            string epoch = Filled(folder);
            byte[] whole = File.ReadAllBytes(FileOf(folder));
            for (int cut = 1; cut < 40; cut++)
            {
                byte[] part = new byte[whole.Length - cut];
                System.Array.Copy(whole, part, part.Length);
                File.WriteAllBytes(FileOf(folder), part);
                using (FKSJournal found = FKSJournal.Open(folder, 2000))
                {
                    Check.Equal(epoch, found.Epoch);
                    Check.Equal(null, found.Corrupt);
                    Check.Equal(3L, found.LastSeq);
                    found.AppendHalt(false, "x", 3000);
                    Check.Equal(true, found.Flush(0));
                }
                using (FKSJournal found = FKSJournal.Open(folder, 2000))
                {
                    Check.Equal(null, found.Corrupt);
                    Check.Equal(false, found.Halted);
                }
            }
        }

        public static void BadLineInTheMiddleStartsANewEpochAndKeepsTheFile()
        {
            string folder = Folder.New();
            string epoch = Filled(folder);
            byte[] bytes = File.ReadAllBytes(FileOf(folder));
            bytes[bytes.Length / 2] ^= 1;
            File.WriteAllBytes(FileOf(folder), bytes);
            using (FKSJournal found = FKSJournal.Open(folder, 2000))
            {
                Check.True(found.Corrupt != null, "the damage was not noticed");
                Check.True(found.Epoch != epoch, "the epoch is the old one");
                Check.Equal(0L, found.LastSeq);
                Check.Equal(0, found.TakeLoaded().Count);
                Check.Equal(1, Directory.GetFiles(folder, "*.corrupt-2000").Length);
            }
        }

        public static void FailedWritesAreWrittenInOrderOnceThereIsSpace()
        {
            string folder = Folder.New();
            bool full = false;
            System.Action<string> disk = delegate
            {
                if (full)
                {
                    throw new IOException("no space");
                }
            };
            using (FKSJournal made = FKSJournal.Open(folder, 1000, disk))
            {
                full = true;
                made.AppendEvent("exec", new FKSObject().Set("account", "Sim101").Set("exec_id", "X1").Set("op", "add"), 1001);
                Check.Equal(false, made.Commit(new FKSObject().Set("r", "intent").Set("id", "refused"), 0));
                made.AppendEvent("signal", new FKSObject().Set("id", "a"), 1002);
                Check.Equal(0L, made.LastSeq);
                full = false;
                Check.Equal(false, made.Flush(FKSJournal.RetryMsMin - 1));
                Check.True(made.Error != null, "the failure was forgotten before a write succeeded");
                File.AppendAllText(FileOf(folder), "half a li"); // what a failed write left
                Check.Equal(true, made.Flush(FKSJournal.RetryMsMin));
                Check.Equal(null, made.Error);
                Check.Equal(2L, made.LastSeq);
            }
            using (FKSJournal found = FKSJournal.Open(folder, 2000))
            {
                Check.Equal(null, found.Corrupt);
                Check.Equal(0L, found.CutBytes);
                Check.Equal(2L, found.LastSeq);
                Check.Equal(true, found.HasExecution("Sim101", "X1"));
                Check.Equal(false, found.TakeLoaded().Exists(delegate(FKSObject r) { return r.Text("id") == "refused"; }));
            }
        }

        public static void OnlyAnOrderlyStopMakesTheJournalComplete()
        {
            string folder = Folder.New();
            FKSJournal.Open(folder, 1000).Stop();
            using (FKSJournal found = FKSJournal.Open(folder, 2000))
            {
                Check.Equal(true, found.IsComplete);
                found.AppendHalt(true, "x", 2001);
                Check.Equal(true, found.Flush(0));
            }
            using (FKSJournal found = FKSJournal.Open(folder, 3000))
            {
                Check.Equal(false, found.IsComplete);
            }
        }

        public static void SecondWriterIsRefused()
        {
            string folder = Folder.New();
            using (FKSJournal.Open(folder, 1000))
            {
                Check.Throws<FKSJournalException>(delegate { FKSJournal.Open(folder, 1001); });
            }
            FKSJournal.Open(folder, 1002).Dispose();
        }

        public static void AcknowledgedEventsAreKeptForSevenDays()
        {
            string folder = Folder.New();
            using (FKSJournal made = FKSJournal.Open(folder, 0))
            {
                made.AppendEvent("halt", new FKSObject(), 0);
                made.AppendEvent("halt", new FKSObject(), 1000);
                Check.Equal(true, made.Flush(0));
                made.Acknowledge(1, 1000);
                Check.Equal(1L, made.OldestSeq);
                made.Acknowledge(1, FKSJournal.KeepMs + 500);
                Check.Equal(2L, made.OldestSeq);
                made.Acknowledge(9, FKSJournal.KeepMs + 5000);
                Check.Equal(3L, made.OldestSeq);
                Check.Equal(2L, made.AckedSeq);
            }
        }

        public static void LinesCarryTheCrcOfTheirJson()
        {
            Check.Equal(0xCBF43926u, FKSJournal.Crc(FKSJson.Encode("123456789"), 0, 9));
            string folder = Folder.New();
            Filled(folder);
            foreach (string line in File.ReadAllText(FileOf(folder)).TrimEnd('\n').Split('\n'))
            {
                byte[] json = FKSJson.Encode(line.Substring(9));
                Check.Equal(FKSJournal.Crc(json, 0, json.Length).ToString("x8"), line.Substring(0, 8));
            }
        }
    }
}
