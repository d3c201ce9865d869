"""The models of a process are the same for all its threads."""

import subprocess
import sys
from pathlib import Path

ASK_TOGETHER = """
import sys, threading
from workers import asking
sys.setswitchinterval(0.0002)
start, found = threading.Barrier(8), []
def ask():
    start.wait()
    found.append(asking.own_models())
threads = [threading.Thread(target=ask) for _ in range(8)]
for each in threads:
    each.start()
for each in threads:
    each.join()
print(len({id(each) for each in found}))
"""


def test_threads_that_ask_for_the_first_time_together_get_the_same_models(tmp_path: Path) -> None:
    # given a process of its own, in which nobody has asked yet
    command = [sys.executable, "-c", ASK_TOGETHER]
    # when eight threads ask at one moment
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True, timeout=120)
    # then none has models of its own, which would be loaded while another's are
    assert done.stdout.strip() == "1"
