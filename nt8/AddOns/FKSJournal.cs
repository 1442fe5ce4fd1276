// The bridge's journal on disk: one checked line per record, flushed to the disk before the action that it allows.
// File fks\journal-<epoch>.log, line form: CRC-32 in hex, a space, one JSON object, LF. A single writer holds a file lock.
using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;

namespace NinjaTrader.NinjaScript.AddOns
{
    /// <summary>The journal cannot be opened or written. The bridge halts: an order without a journal could be sent twice.</summary>
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

        private readonly string folder;
        private FileStream guard;
        private FileStream file;
        private bool dirty;
        private long eventBytes;
        private readonly List<FKSEvent> events = new List<FKSEvent>();
        private readonly HashSet<string> executions = new HashSet<string>(StringComparer.Ordinal);
        private List<FKSObject> loaded = new List<FKSObject>();

        private FKSJournal(string folder)
        {
            this.folder = folder;
        }

        public string Epoch { get; private set; }
        public long LastSeq { get; private set; }
        public long OldestSeq { get; private set; }
        public long AckedSeq { get; private set; }
        public bool Halted { get; private set; }
        public bool Failed { get; private set; }
        /// <summary>Why the loaded file was given up, or null. A new epoch then starts.</summary>
        public string Corrupt { get; private set; }
        public long CutBytes { get; private set; }
        public bool IsNew { get; private set; }

        /// <summary>True while records wait for Flush.</summary>
        public bool IsDirty
        {
            get { return dirty; }
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
        public static FKSJournal Open(string folder, long nowMs)
        {
            FKSJournal made = new FKSJournal(folder);
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
            string path = Path.Combine(folder, "journal.lock");
            guard = new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
            guard.Lock(0, 1); // another process: some systems keep FileShare only inside one process
        }

        private void Load(long nowMs)
        {
            string path = Newest();
            if (path != null)
            {
                long good = Read(path);
                if (Corrupt == null && Epoch == null)
                {
                    Corrupt = "the first record is no epoch";
                }
                if (Corrupt == null)
                {
                    file = new FileStream(path, FileMode.Open, FileAccess.ReadWrite, FileShare.Read);
                    CutBytes = file.Length - good;
                    if (CutBytes > 0)
                    {
                        file.SetLength(good);
                        file.Flush(true);
                    }
                    file.Seek(0, SeekOrigin.End);
                    return;
                }
                File.Move(path, path + ".corrupt-" + nowMs.ToString(CultureInfo.InvariantCulture));
            }
            Begin(nowMs);
        }

        private string Newest()
        {
            string newest = null;
            foreach (string path in Directory.GetFiles(folder, "journal-*.log"))
            {
                if (newest == null || File.GetLastWriteTimeUtc(path) > File.GetLastWriteTimeUtc(newest))
                {
                    newest = path;
                }
            }
            return newest;
        }

        private void Begin(long nowMs)
        {
            Epoch = FKSProtocol.RandomHex(16);
            IsNew = true;
            LastSeq = 0;
            OldestSeq = 1;
            AckedSeq = 0;
            Halted = false;
            events.Clear();
            executions.Clear();
            loaded.Clear();
            file = new FileStream(Path.Combine(folder, "journal-" + Epoch + ".log"), FileMode.CreateNew, FileAccess.ReadWrite, FileShare.Read);
            Append(new FKSObject().Set("r", "epoch").Set("epoch", Epoch).Set("at_ms", nowMs));
            Flush();
        }

        /// <summary>Load all records; returns the length of the good part. Sets Corrupt where a line before the last is bad.</summary>
        private long Read(string path)
        {
            byte[] bytes = File.ReadAllBytes(path);
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
            switch (record.Text("r"))
            {
                case "epoch":
                    Epoch = record.Text("epoch");
                    LastSeq = record.Long("last_seq", 0);
                    OldestSeq = LastSeq + 1;
                    break;
                case "event":
                    FKSObject body = record.Object("ev");
                    Keep(new FKSEvent(body.Long("seq", 0), body.Long("at_ms", 0), FKSJson.Write(body)));
                    break;
                case "exec_seen":
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
            LastSeq = made.Seq;
            events.Add(made);
            eventBytes += made.Text.Length;
        }

        /// <summary>Append a record without waiting for the disk. Flush makes it durable.</summary>
        public void Append(FKSObject record)
        {
            try
            {
                byte[] text = FKSJson.Encode(FKSJson.Write(record));
                byte[] line = new byte[text.Length + 10];
                FKSJson.Encode(Crc(text, 0, text.Length).ToString("x8", CultureInfo.InvariantCulture) + " ").CopyTo(line, 0);
                text.CopyTo(line, 9);
                line[line.Length - 1] = (byte)'\n';
                file.Write(line, 0, line.Length);
                dirty = true;
            }
            catch (Exception cause)
            {
                Failed = true;
                throw new FKSJournalException("journal write failed: " + cause.Message, cause);
            }
        }

        /// <summary>After return every appended record is on the disk.</summary>
        public void Flush()
        {
            if (!dirty)
            {
                return;
            }
            try
            {
                file.Flush(true);
                dirty = false;
            }
            catch (Exception cause)
            {
                Failed = true;
                throw new FKSJournalException("journal flush failed: " + cause.Message, cause);
            }
        }

        /// <summary>Give an event the next number and append it. It must be flushed before it is sent.</summary>
        public FKSEvent AppendEvent(string kind, FKSObject fields, long nowMs)
        {
            FKSObject body = FKSProtocol.Message("ev").Set("seq", LastSeq + 1).Set("epoch", Epoch).Set("at_ms", nowMs).Set("kind", kind);
            foreach (string key in fields.Keys)
            {
                body.Set(key, fields.Get(key));
            }
            Append(new FKSObject().Set("r", "event").Set("ev", body));
            FKSEvent made = new FKSEvent(LastSeq + 1, nowMs, FKSJson.Write(body));
            Keep(made);
            return made;
        }

        /// <summary>Record an execution id; false where it was seen before.</summary>
        public bool AppendExecution(string account, string executionId)
        {
            if (!executions.Add(account + "|" + executionId))
            {
                return false;
            }
            Append(new FKSObject().Set("r", "exec_seen").Set("account", account).Set("exec_id", executionId));
            return true;
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
                if (!done && eventBytes <= BytesMax)
                {
                    break;
                }
                eventBytes -= oldest.Text.Length;
                OldestSeq = oldest.Seq + 1;
                released++;
            }
            events.RemoveRange(0, released);
        }

        public void Dispose()
        {
            FileStream held = file;
            file = null;
            if (held != null)
            {
                try
                {
                    held.Flush(true);
                }
                catch (Exception)
                {
                    Failed = true; // the disk is gone; there is nothing left to write
                }
                held.Dispose();
            }
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
