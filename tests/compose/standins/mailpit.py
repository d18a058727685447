#!/usr/bin/python3
"""As much of Mailpit as the demo uses: SMTP on 1025; /readyz, the list of mails and a page of them on 8025."""

import html
import json
import sys
import urllib.request
from email import message_from_bytes, policy
from email.utils import getaddresses
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aiosmtpd.controller import Controller

mails = []


class Keeper:
    async def handle_DATA(self, server, session, envelope):
        message = message_from_bytes(envelope.content, policy=policy.default)
        body = message.get_body(("plain",))
        to = [{"Name": name, "Address": address} for name, address in getaddresses([message["to"] or ""])]
        mails.insert(
            0, {"To": to, "Subject": str(message["subject"]), "Snippet": body.get_content().strip() if body else ""}
        )
        return "250 kept"


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.partition("?")[0]
        if path == "/readyz":
            self.answer("text/plain", "ok")
        elif path == "/api/v1/messages":
            self.answer("application/json", json.dumps({"total": len(mails), "messages": mails}))
        else:
            rows = "".join(f"<li>{html.escape(mail['Subject'])}: {html.escape(str(mail['To']))}" for mail in mails)
            self.answer("text/html", f"<title>Mails</title><ul>{rows}</ul>")

    def answer(self, kind, text):
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments):
        pass


if sys.argv[1:] == ["readyz"]:
    with urllib.request.urlopen("http://127.0.0.1:8025/readyz", timeout=3):
        sys.exit()
Controller(Keeper(), hostname="0.0.0.0", port=1025).start()
ThreadingHTTPServer(("0.0.0.0", 8025), Page).serve_forever()
