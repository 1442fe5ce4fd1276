"""Names by which processes of Ray are recognised. It documents none of them (docs/upgrade-ray.md)."""

from __future__ import annotations

#: begins the title of every worker process: ray::OrderManager.join
TITLE = "ray::"
#: of a worker process that waits for work; before it has its title its command line names STARTING
IDLE, STARTING = "ray::IDLE", "default_worker.py"
PROXY = "ray::ProxyActor"
GCS, RAYLET = "gcs", "raylet"
#: daemons by the name of their program, and by a text in their command line
PROGRAMS = {"gcs_server": GCS, "raylet": RAYLET}
AUTOSCALERS = ("autoscaler/_private/monitor.py", "autoscaler/v2/monitor.py")
COMMANDS = {
    "ray/dashboard/dashboard.py": "dashboard",
    "ray.util.client.server": "client server",
    "log_monitor.py": "log monitor",
    **dict.fromkeys(AUTOSCALERS, "autoscaler"),
}
