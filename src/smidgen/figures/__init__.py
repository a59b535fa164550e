"""Numbers as text and as SVG: what reports, model cards and the page of a task's own draw with."""
