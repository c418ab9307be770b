"""The `openai` client and keys: none, a wrong one, one of another scope, the right one, and one that is taken back.

usage: keys_client.py BASE_URL MODEL KEYS_FILE SECRETS_FILE
"""

import hashlib
import re
import sys
import time
import urllib.request
from pathlib import Path

import openai

from checks import QUESTION, check, refused


def main():
    url, model, file, secrets = sys.argv[1:]
    file = Path(file)
    inference, metrics = re.findall(r"sk-\w+", Path(secrets).read_text())

    def ask(key):
        client = openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0, timeout=60,
                               _strict_response_validation=True)
        return client.chat.completions.create(model=model, messages=QUESTION, max_tokens=4)

    for key in ("none", inference[:-1]):
        with refused(openai.AuthenticationError, "a key that nobody has", status_code=401, code="invalid_api_key"):
            ask(key)
    with refused(openai.PermissionDeniedError, "a key for metrics alone", status_code=403):
        ask(metrics)
    check(ask(inference).choices[0].finish_reason, "the right key is answered")
    scrape = urllib.request.Request(url + "/metrics", headers={"Authorization": f"Bearer {metrics}"})
    with urllib.request.urlopen(scrape) as answer:
        check(answer.status == 200, "the key for metrics reads them")

    digest = hashlib.sha256(inference.encode()).hexdigest()
    entries = file.read_text().split("[[key]]")
    file.write_text("[[key]]".join(entry for entry in entries if digest not in entry))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            ask(inference)
        except openai.AuthenticationError:
            return check(True, "a key that is taken out of the file is refused without a restart")
        time.sleep(0.2)
    check(False, "a key that is taken out of the file is refused")


main()
