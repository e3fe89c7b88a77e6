"""Streamlit's own tester, on the example: for each line of JSON, what to do, it prints what it saw.

`said` is asked, one after the other, on one page. The last of them is stopped where there is a
`stop_after`: the tester's time-out and the button in the browser take the same way.
"""

import json
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from streamlit.testing.v1 import AppTest

EXAMPLE = Path(__file__).parents[2] / "examples" / "streamlit_chat.py"

logging.disable(logging.WARNING)  # that it runs without a browser is no news

for line in sys.stdin:
    case = json.loads(line)
    os.environ |= {"PROXY_URL": case["url"], "WORKER_ACCESS_KEY": case["key"]}
    page: Any = AppTest.from_file(EXAMPLE, default_timeout=20).run()
    *questions, last = case["said"]
    for question in questions:
        page.chat_input[0].set_value(question).run()
    page.chat_input[0].set_value(last)
    if "stop_after" in case:
        with suppress(RuntimeError):  # its time is up
            page.run(timeout=case["stop_after"])
        page.chat_input[0].set_value(None)
    page.run()
    seen = [
        {
            "by": message.name,
            "text": "".join(shown.value for shown in message.markdown),
            "notes": [shown.value for shown in (*message.caption, *message.error)],
        }
        for message in page.chat_message
    ]
    print(json.dumps({"messages": seen, "exceptions": len(page.exception)}), flush=True)
