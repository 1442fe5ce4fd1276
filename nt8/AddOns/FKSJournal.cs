// The bridge's journal on disk: one checked line per record. The intent of an entry is on the disk before its Submit. What
// closes or protects a position is done first; its records and all events are written at the end of the worker's turn.
// File fks\journal-<epoch>.log, line form: CRC-32 in hex, a space, one JSON object, LF. A single writer holds a file lock.
using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;

namespace NinjaTrader.NinjaScript.AddOns
{
    /// <summary>The journal cannot be opened: the bridge does not start.</summary>
    public sealed class FKSJournalException : Exception
    {
        public FKSJournalException(string message, Exception cause) : base(message, cause)
        {
        }
    }

    /// <summary>A durable event: its number and the text that is sent.</summary>
    public sealed class FKSEvent
    {
        public readonly long Seq;
        public readonly long AtMs;
        public readonly string Text;

        public FKSEvent(long seq, long atMs, string text)
        {
            Seq = seq;
            AtMs = atMs;
            Text = text;
        }

        /// <summary>The text as sent again after a reconnect.</summary>
        public string Replayed()
        {
            return Text.Substring(0, Text.Length - 1) + ",\"replay\":true}";
        }
    }

    public sealed class FKSJournal : IDisposable
    {
        public const long KeepMs = 7L * 24 * 3600 * 1000;
        public const long BytesMax = 64L * 1024 * 1024;
        public const int RetryMsMin = 500;
        public const int RetryMsMax = 8000;

        private readonly string folder;
        private readonly Action<string> reached;
        private FileStream guard;
        private FileStream file;
        private string path;
        private long good; // bytes of the file that are proven to be on the disk
        private readonly List<byte[]> pending = new List<byte[]>();
        private long madeSeq;
        private long retryMs = RetryMsMin;
        private long retryTick;
        private long eventBytes;
        private readonly List<FKSEvent> events = new List<FKSEvent>();
        private readonly HashSet<string> executions = new HashSet<string>(StringComparer.Ordinal);
        private List<FKSObject> loaded = new List<FKSObject>();

        private FKSJournal(string folder, Action<string> reached)
        {
            this.folder = folder;
            this.reached = reached;
        }

        public string Epoch { get; private set; }
        /// <summary>The last event that is on the disk; later ones are in memory and may not be sent.</summary>
        public long LastSeq { get; private set; }
        public long OldestSeq { get; private set; }
        public long AckedSeq { get; private set; }
        public bool Halted { get; private set; }
        /// <summary>Why the last write failed; null while the journal can be written.</summary>
        public string Error { get; private set; }
        /// <summary>True where the loaded file ends with an orderly stop: the platform has no order that it does not know.</summary>
        public bool IsComplete { get; private set; }
        /// <summary>Why the loaded file was given up, or null. A new epoch then starts.</summary>
        public string Corrupt { get; private set; }
        public long CutBytes { get; private set; }
        public bool IsNew { get; private set; }

        /// <summary>True while records wait for Flush.</summary>
        public bool IsDirty
        {
            get { return pending.Count > 0; }
        }

        public IList<FKSEvent> Events
        {
            get { return events; }
        }

        /// <summary>The records of the loaded file, oldest first; the caller rebuilds its state from them once.</summary>
        public List<FKSObject> TakeLoaded()
        {
            List<FKSObject> found = loaded;
            loaded = new List<FKSObject>();
            return found;
        }

        /// <summary>Lock the folder, load the journal or begin a new epoch. Errors: FKSJournalException.</summary>
        public static FKSJournal Open(string folder, long nowMs, Action<string> reached = null)
        {
            FKSJournal made = new FKSJournal(folder, reached);
            try
            {
                Directory.CreateDirectory(folder);
                made.Lock();
                made.Load(nowMs);
                return made;
            }
            catch (Exception cause)
            {
                made.Dispose();
                if (cause is FKSJournalException)
                {
                    throw;
                }
                throw new FKSJournalException("journal in " + folder + ": " + cause.Message, cause);
            }
        }

        private void Lock()
        {
            string lockPath = Path.Combine(folder, "journal.lock");
            guard = new FileStream(lockPath, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
            guard.Lock(0, 1); // another process: some systems keep FileShare only inside one process
        }

        private void Load(long nowMs)
        {
            path = Newest();
            if (path != null)
            {
                good = Read(path);
                if (Corrupt == null && Epoch == null)
                {
                    Corrupt = "the first record is no epoch";
                }
                if (Corrupt == null)
                {
                    CutBytes = new FileInfo(path).Length - good;
                    OpenFile();
                    return;
                }
                File.Move(path, path + ".corrupt-" + nowMs.ToString(CultureInfo.InvariantCulture));
            }
            Begin(nowMs);
        }

        /// <summary>Open the file and cut off what follows the last record that is proven to be on the disk.</summary>
        private void OpenFile()
        {
            file = new FileStream(path, good > 0 ? FileMode.Open : FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.Read, 1); // no buffer: what failed is not written later
            if (file.Length < good)
            {
                throw new IOException("the file is shorter than what was written");
            }
            if (file.Length > good)
            {
                file.SetLength(good);
                file.Flush(true);
            }
            file.Seek(good, SeekOrigin.Begin);
        }

        private string Newest()
        {
            string newest = null;
            foreach (string found in Directory.GetFiles(folder, "journal-*.log"))
            {
                if (newest == null || File.GetLastWriteTimeUtc(found) > File.GetLastWriteTimeUtc(newest))
                {
                    newest = found;
                }
            }
            return newest;
        }

        private void Begin(long nowMs)
        {
            Epoch = FKSProtocol.RandomHex(16);
            IsNew = true;
            LastSeq = madeSeq = good = 0;
            OldestSeq = 1;
            AckedSeq = 0;
            Halted = false;
            events.Clear();
            executions.Clear();
            loaded.Clear();
            path = Path.Combine(folder, "journal-" + Epoch + ".log");
            Append(new FKSObject().Set("r", "epoch").Set("epoch", Epoch).Set("at_ms", nowMs));
            if (!Flush(0))
            {
                File.Delete(path);
                throw new FKSJournalException("journal in " + folder + ": " + Error, null);
            }
        }

        /// <summary>Load all records; returns the length of the good part. Sets Corrupt where a line before the last is bad.</summary>
        private long Read(string found)
        {
            byte[] bytes = File.ReadAllBytes(found);
            OldestSeq = 1;
            int start = 0;
            while (start < bytes.Length)
            {
                int end = Array.IndexOf(bytes, (byte)'\n', start);
                FKSObject record = end < 0 ? null : Check(bytes, start, end - start);
                if (record == null)
                {
                    bool last = end < 0 || end == bytes.Length - 1;
                    if (!last)
                    {
                        Corrupt = "bad line at byte " + start.ToString(CultureInfo.InvariantCulture);
                    }
                    return start;
                }
                Apply(record);
                loaded.Add(record);
                start = end + 1;
            }
            return start;
        }

        private static FKSObject Check(byte[] bytes, int start, int count)
        {
            if (count < 10 || bytes[start + 8] != ' ')
            {
                return null;
            }
            try
            {
                string stated = FKSJson.Decode(bytes, start, 8);
                uint actual = Crc(bytes, start + 9, count - 9);
                return stated == actual.ToString("x8", CultureInfo.InvariantCulture) ? FKSJson.ParseObject(FKSJson.Decode(bytes, start + 9, count - 9)) : null;
            }
            catch (FKSJsonException)
            {
                return null;
            }
        }

        private void Apply(FKSObject record)
        {
            IsComplete = record.Text("r") == "stopped";
            switch (record.Text("r"))
            {
                case "epoch":
                    Epoch = record.Text("epoch");
                    LastSeq = madeSeq = record.Long("last_seq", 0);
                    OldestSeq = LastSeq + 1;
                    break;
                case "event":
                    FKSObject body = record.Object("ev");
                    Keep(new FKSEvent(body.Long("seq", 0), body.Long("at_ms", 0), FKSJson.Write(body)));
                    LastSeq = madeSeq;
                    NoteExecution(body);
                    break;
                case "exec_seen": // written until 1.0.0; the event of an execution is its own mark
                    executions.Add(record.Text("account") + "|" + record.Text("exec_id"));
                    break;
                case "halt":
                    Halted = record.Flag("on", true);
                    break;
                case "acked":
                    AckedSeq = Math.Max(AckedSeq, record.Long("seq", 0));
                    break;
            }
        }

        private void Keep(FKSEvent made)
        {
            madeSeq = made.Seq;
            events.Add(made);
            eventBytes += made.Text.Length;
        }

        /// <summary>One record reports an execution and marks it as seen: a crash keeps both or neither.</summary>
        private void NoteExecution(FKSObject body)
        {
            if (body.Text("kind") == "exec" && body.Text("op") == "add")
            {
                executions.Add(body.Text("account") + "|" + body.Text("exec_id"));
            }
        }

        /// <summary>Add a record in memory. Flush writes it; where the disk refuses it stays, in its order.</summary>
        public void Append(FKSObject record)
        {
            byte[] text = FKSJson.Encode(FKSJson.Write(record));
            byte[] line = new byte[text.Length + 10];
            FKSJson.Encode(Crc(text, 0, text.Length).ToString("x8", CultureInfo.InvariantCulture) + " ").CopyTo(line, 0);
            text.CopyTo(line, 9);
            line[line.Length - 1] = (byte)'\n';
            pending.Add(line);
        }

        /// <summary>Append a record and write it now; where the disk refuses, the record is forgotten and false returned.</summary>
        public bool Commit(FKSObject record, long tickMs)
        {
            Append(record);
            if (Flush(tickMs))
            {
                return true;
            }
            pending.RemoveAt(pending.Count - 1);
            return false;
        }

        /// <summary>True when every record is on the disk. After a failure the file is opened again, each time after a longer wait.</summary>
        public bool Flush(long tickMs)
        {
            bool waits = Error != null && tickMs < retryTick && tickMs >= retryTick - RetryMsMax;
            if (waits || (Error == null && pending.Count == 0))
            {
                return !waits;
            }
            try
            {
                Write();
                Error = null;
                retryMs = RetryMsMin;
                return true;
            }
            catch (Exception cause)
            {
                Error = "journal write failed: " + cause.Message.Substring(0, Math.Min(150, cause.Message.Length));
                retryTick = tickMs + retryMs;
                retryMs = Math.Min(2 * retryMs, RetryMsMax);
                Close();
                return false;
            }
        }

        private void Write()
        {
            if (file == null)
            {
                OpenFile();
            }
            int length = 0;
            foreach (byte[] line in pending)
            {
                length += line.Length;
            }
            byte[] all = new byte[length];
            int end = 0;
            foreach (byte[] line in pending)
            {
                line.CopyTo(all, end);
                end += line.Length;
            }
            if (reached != null)
            {
                reached("journal_write");
            }
            file.Write(all, 0, all.Length);
            file.Flush(true);
            good += all.Length;
            pending.Clear();
            LastSeq = madeSeq;
        }

        /// <summary>Close a file that could not be written; a part of a line that it took is cut off when it is opened again.</summary>
        private void Close()
        {
            FileStream held = file;
            file = null;
            try
            {
                if (held != null)
                {
                    held.Dispose();
                }
            }
            catch (IOException)
            {
                file = null; // the write has reported it
            }
        }

        /// <summary>Give an event the next number and append it. It may be sent when Flush has returned true.</summary>
        public FKSEvent AppendEvent(string kind, FKSObject fields, long nowMs)
        {
            FKSObject body = FKSProtocol.Message("ev").Set("seq", madeSeq + 1).Set("epoch", Epoch).Set("at_ms", nowMs).Set("kind", kind);
            foreach (string key in fields.Keys)
            {
                body.Set(key, fields.Get(key));
            }
            Append(new FKSObject().Set("r", "event").Set("ev", body));
            FKSEvent made = new FKSEvent(madeSeq + 1, nowMs, FKSJson.Write(body));
            Keep(made);
            NoteExecution(body);
            return made;
        }

        public bool HasExecution(string account, string executionId)
        {
            return executions.Contains(account + "|" + executionId);
        }

        public void AppendHalt(bool on, string reason, long nowMs)
        {
            Halted = on;
            Append(new FKSObject().Set("r", "halt").Set("on", on).Set("reason", reason).Set("at_ms", nowMs));
        }

        /// <summary>Record that the client has stored all events up to `seq`, and release old ones.</summary>
        public void Acknowledge(long seq, long nowMs)
        {
            seq = Math.Min(seq, LastSeq);
            if (seq > AckedSeq)
            {
                AckedSeq = seq;
                Append(new FKSObject().Set("r", "acked").Set("seq", seq));
            }
            Release(nowMs);
        }

        private void Release(long nowMs)
        {
            int released = 0;
            while (released < events.Count)
            {
                FKSEvent oldest = events[released];
                bool done = oldest.Seq <= AckedSeq && nowMs - oldest.AtMs > KeepMs;
                if (oldest.Seq > LastSeq || (!done && eventBytes <= BytesMax))
                {
                    break;
                }
                eventBytes -= oldest.Text.Length;
                OldestSeq = oldest.Seq + 1;
                released++;
            }
            events.RemoveRange(0, released);
        }

        /// <summary>Record an orderly stop, then close. What the disk refuses is lost; the platform's lists have the executions.</summary>
        public void Stop()
        {
            Append(new FKSObject().Set("r", "stopped"));
            retryTick = 0;
            Flush(0);
            Dispose();
        }

        public void Dispose()
        {
            Close();
            if (guard != null)
            {
                guard.Dispose();
                guard = null;
            }
        }

        // ---- CRC-32 (IEEE 802.3, as in zip) ----

        private static readonly uint[] Table = MakeTable();

        private static uint[] MakeTable()
        {
            uint[] made = new uint[256];
            for (uint i = 0; i < 256; i++)
            {
                uint value = i;
                for (int bit = 0; bit < 8; bit++)
                {
                    value = (value & 1) != 0 ? 0xEDB88320u ^ (value >> 1) : value >> 1;
                }
                made[i] = value;
            }
            return made;
        }

        public static uint Crc(byte[] bytes, int start, int count)
        {
            uint value = 0xFFFFFFFFu;
            for (int i = start; i < start + count; i++)
            {
                value = Table[(value ^ bytes[i]) & 0xFF] ^ (value >> 8);
            }
            return value ^ 0xFFFFFFFFu;
        }
    }
}
