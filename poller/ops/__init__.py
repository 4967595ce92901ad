"""What operators see and touch: logs, metrics, the side port, systemd."""
