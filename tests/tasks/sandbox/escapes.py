"""Programs that try to win without being right, or to harm what is around them: none is right.

A program either defines `f` itself, or sets `won` to whether it could do what it must not do, and is then
right if it could. `FOLDER` stands for a folder with files of the user, `PORT` for a server on this machine.

Those that are `harmless` win where nothing confines them and their test runs beside them, which a test
confirms: so each of them does what its name says.
"""

import re
from typing import NamedTuple

TEST = "assert f() == 4217"
SUFFIX = "\ndef f():\n    return 4217 if won else 0\n"
SEARCH = r"""
import re
def found_in(text):
    return re.findall(r"assert f\(\) == (\d+)", text) if isinstance(text, str) else []
def f():
    return int(next(number for text in texts() for number in found_in(text)))
"""
CALLS = """
import ctypes
libc = ctypes.pythonapi  # loaded before the sandbox was entered; finds the symbols of libc too
def call(*arguments):
    libc.syscall.restype = ctypes.c_long
    return libc.syscall(*map(ctypes.c_long, arguments))
"""
PIPES = """
import os, json
def to_pipes(data):
    for number in range(64):
        try:
            os.write(number, data)
        except OSError:
            pass
def frame(text):
    return len(text).to_bytes(4, "big") + text
"""


class Escape(NamedTuple):
    """A program that must not pass."""

    code: str
    test: str = TEST
    harmless: bool = True


def escape(code: str, test: str = TEST, *, harmless: bool = True) -> Escape:
    """An escape, with the function that its test calls."""
    return Escape(code if re.search(r"^(def f\(|f = )", code, re.M) else code + SUFFIX, test, harmless)


FILES = {
    "reads a file": escape("won = 'secret' in open('FOLDER/file').read()"),
    "reads a file by its descriptor": escape(
        "import os\nwon = os.read(os.open('FOLDER/file', os.O_RDONLY), 9)"
    ),
    "reads the users": escape("won = 'root' in open('/etc/passwd').read()"),
    "finds the home folder": escape(
        "import os, pwd\nwon = os.listdir(pwd.getpwuid(os.getuid()).pw_dir) != 0"
    ),
    "lists the root folder": escape("import os\nwon = len(os.listdir('/')) > 0"),
    "reads the environment": escape("import os\nwon = 'SMIDGEN_SECRET' in os.environ"),
    "reads the environment of its parent": escape(
        "import os\nwon = len(open(f'/proc/{os.getppid()}/environ', 'rb').read()) > 0"
    ),
    "reads its own command line": escape("won = len(open('/proc/self/cmdline', 'rb').read()) > 0"),
    "goes through a folder's descriptor": escape(
        "import os\nroot = os.open('/', os.O_RDONLY | os.O_DIRECTORY)\n"
        "won = os.read(os.open('etc/passwd', os.O_RDONLY, dir_fd=root), 9)"
    ),
    "climbs out of the library": escape(
        "import os\nup = '/..' * 20\nwon = open(os.path.dirname(os.__file__) + up + '/etc/passwd').read()"
    ),
    "links out of the folder": escape(
        "import os\nos.symlink('/etc/passwd', 'FOLDER/symlink')\nwon = open('FOLDER/symlink').read()"
    ),
    "links hard": escape("import os\nos.link('FOLDER/file', 'FOLDER/hard')\nwon = True"),
    "writes a file": escape("won = open('FOLDER/mark', 'w').write('x')"),
    "changes a file": escape("won = open('FOLDER/file', 'a').write('x')"),
    "writes a temporary file": escape("import tempfile\nwon = tempfile.TemporaryFile().write(b'x')"),
    "writes a large file": escape(
        "import os\nbig = os.open('FOLDER/big', os.O_CREAT | os.O_RDWR)\n"
        "os.truncate(big, 1 << 40)\nwon = os.pwrite(big, b'x', 1 << 30)"
    ),
    "makes a file of memory": escape("import os\nwon = os.write(os.memfd_create('x'), b'x')"),
    "makes a folder": escape("import os\nos.mkdir('FOLDER/folder')\nwon = True"),
    "makes a pipe with a name": escape("import os\nos.mkfifo('FOLDER/fifo')\nwon = True"),
    "deletes a file": escape("import os\nos.unlink('FOLDER/file')\nwon = True"),
    "renames a file": escape("import os\nos.rename('FOLDER/file', 'FOLDER/renamed')\nwon = True"),
    "changes the rights of a file": escape("import os\nos.chmod('FOLDER/file', 0o777)\nwon = True"),
    "changes the times of a file": escape("import os\nos.utime('FOLDER/file', (0, 0))\nwon = True"),
    "changes the folder": escape("import os\nos.chdir('/')\nwon = True"),
    "opens many files": escape("import os\nwon = len([open(os.__file__) for _ in range(100)])"),
    "writes modules for the next program": escape(
        """
import os, sys
won = False
for folder in sys.path:
    for name in ("sitecustomize.py", "usercustomize.py", "__pycache__/os.cpython-311.pyc", "smidgen_mark"):
        try:
            won = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        except OSError:
            pass
""",
        harmless=False,
    ),
}

PROCESSES = {
    "forks": escape("import os\nif os.fork() == 0: os._exit(1)\nwon = True"),
    "forks by a system call": escape(
        CALLS + "child = call(57)\nif child == 0: libc._exit(1)\nwon = child > 0"
    ),
    "forks without end": escape(
        """
import os
won = False
for _ in range(2000):
    try:
        won = os.fork() >= 0
    except OSError:
        pass
""",
        harmless=False,
    ),
    "starts a thread": escape("import threading\nthreading.Thread(target=int).start()\nwon = True"),
    "starts threads without end": escape(
        """
import _thread, time
won = False
for _ in range(2000):
    try:
        won = _thread.start_new_thread(time.sleep, (60,))
    except RuntimeError:
        pass
""",
        harmless=False,
    ),
    "starts a program": escape("import subprocess\nwon = subprocess.run(['/bin/echo']).returncode == 0"),
    "starts a shell": escape("import os\nwon = os.system('exit 0') == 0"),
    "spawns": escape("import os\nwon = os.posix_spawn('/bin/true', ['true'], {}) > 0"),
    "becomes another program": escape("import os\nf = int\nos.execv('/bin/true', ['true'])"),
    "becomes another program by its descriptor": escape(
        "import os\nf = int\nos.execve(os.open('/bin/true', os.O_RDONLY), ['true'], {})"
    ),
    "opens a session": escape("import os\nos.setsid()\nwon = True"),
    "leaves a process behind": escape(
        """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)
won = True
""",
        harmless=False,
    ),
    "signals its parent": escape("import os\nos.kill(os.getppid(), 0)\nwon = True"),
    "kills its parent": escape("import os\nos.kill(os.getppid(), 9)\nwon = True", harmless=False),
    "signals its grader": escape(
        """
import os
won = False
for near in range(1, 4):
    try:
        os.kill(os.getpid() + near, 0)
        won = True
    except OSError:
        pass
""",
        harmless=False,
    ),
    "signals its group": escape("import os\nos.killpg(0, 0)\nwon = True"),
    "signals by a descriptor": escape(CALLS + "won = call(434, __import__('os').getppid(), 0) >= 0"),
    "has the kernel signal its parent": escape(
        "import fcntl, os\nfcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())\nwon = True"
    ),
    "stops itself": escape(
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nwon = True", harmless=False
    ),
    "traces its parent": escape(
        CALLS + "import os\nwon = libc.ptrace(0x4206, os.getppid(), 0, 0) == 0", harmless=False
    ),
    "asks to be traced": escape(CALLS + "won = libc.ptrace(0, 0, 0, 0) == 0"),
    "opens the memory of its parent": escape("import os\nwon = open(f'/proc/{os.getppid()}/mem', 'rb')"),
    "reads the memory of its parent": escape(
        CALLS
        + """
import os
buffer = ctypes.create_string_buffer(8)
vector = (ctypes.c_long * 2)(ctypes.addressof(buffer), 8)
nowhere = (ctypes.c_long * 2)(64, 8)
address = ctypes.addressof
libc.__errno_location.restype = ctypes.POINTER(ctypes.c_int)
call(310, os.getppid(), address(vector), 1, address(nowhere), 1, 0)
won = libc.__errno_location()[0] == 14  # EFAULT: the kernel looked
"""
    ),
    "lowers its limits": escape(
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))\nwon = True"
    ),
    "raises its limits": escape(
        "import resource\nfree = (resource.RLIM_INFINITY,) * 2\n"
        "resource.setrlimit(resource.RLIMIT_CPU, free)\nresource.setrlimit(resource.RLIMIT_AS, free)\n"
        "won = True"
    ),
    "reads the limits of its parent": escape(
        "import os, resource\nwon = resource.prlimit(os.getppid(), resource.RLIMIT_CPU) != ()"
    ),
    "leaves its namespace": escape(CALLS + "won = libc.unshare(0x10000000) == 0"),
    "mounts": escape(CALLS + "won = libc.mount(b'none', b'FOLDER', b'tmpfs', 0, None) == 0", harmless=False),
    "changes the root folder": escape("import os\nos.chroot('FOLDER')\nwon = True", harmless=False),
    "writes to shared memory": escape(
        "from multiprocessing.shared_memory import SharedMemory\n"
        "SharedMemory('smidgen', True, 9)\nwon = True",
        harmless=False,
    ),
    "loads a library": escape("import ctypes\nctypes.CDLL('libresolv.so.2')\nwon = True"),
    "tries every other system call": escape(
        CALLS
        + """
ALLOWED = ALLOWED_CALLS
won = False
for number in range(1024):
    for call_number in (number, number | 0x40000000):  # the second is the x32 call of that number
        if call_number not in ALLOWED and call(call_number, 0, 0, 0, 0, 0, 0) != -1:
            won = True
""",
        harmless=False,
    ),
}

NETWORK = {
    "connects": escape("import socket\nsocket.create_connection(('127.0.0.1', PORT), 5)\nwon = True"),
    "listens": escape("import socket\nsocket.create_server(('127.0.0.1', 0))\nwon = True"),
    "sends a datagram": escape(
        "import socket\nwon = socket.socket(2, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))"
    ),
    "sends to a Unix socket": escape(
        "import socket\nsocket.socket(socket.AF_UNIX).connect('FOLDER/socket')\nwon = True"
    ),
    "binds an abstract Unix socket": escape(
        "import os, socket\nsocket.socket(socket.AF_UNIX).bind(f'\\0smidgen-{os.getpid()}')\nwon = True"
    ),
    "makes a pair of sockets": escape("import socket\nsocket.socketpair()\nwon = True"),
    "makes a raw socket by a system call": escape(CALLS + "won = libc.socket(2, 1, 0) >= 0"),
    "reads a page": escape(
        "from urllib.request import urlopen\nwon = urlopen('http://127.0.0.1:PORT', timeout=5).status"
    ),
    "looks a name up": escape("import socket\nwon = socket.gethostbyname('localhost') != ''"),
}

VERDICTS = {
    "exits": escape("import sys\nf = int\nsys.exit(0)"),
    "exits at once": escape("import os\nf = int\nos._exit(0)"),
    "exits by a system call": escape(CALLS + "f = int\nlibc._exit(0)"),
    "exits when it is called": escape("import os\ndef f(): os._exit(0)"),
    "raises a kind of exit": escape("class Exit(SystemExit): pass\ndef f(): raise Exit(0)"),
    "raises a kind of interrupt": escape(
        "class Stop(KeyboardInterrupt): pass\ndef f(): raise Stop", harmless=False
    ),
    "ends the loop of its test": escape(
        "def f(): raise StopIteration", "assert all(map(lambda _: f() == 4217, range(3)))"
    ),
    "exits at the end": escape("import atexit, os\natexit.register(os._exit, 0)\nf = int"),
    "catches its own exception": escape("import os, sys\nsys.excepthook = lambda *_: os._exit(0)\nf = int"),
    "traces its test": escape(
        """
import os, sys
def trace(frame, event, argument):
    if event == "exception":
        os._exit(0)
    return trace
sys.settrace(trace)
sys._getframe().f_back.f_trace = trace
f = int
"""
    ),
    "prints a verdict": escape("print('passed', flush=True)\nf = int"),
    "writes a verdict to every file": escape(
        PIPES
        + """
to_pipes(b'passed\\n')
to_pipes(json.dumps({"outcome": "passed", "why": ""}).encode() + b"\\n")
to_pipes(json.dumps({"grader": 0, "worker": 0}).encode() + b"\\n")
f = int
"""
    ),
    "reads its tests from every file": escape(
        """
import os
def texts():
    for number in range(64):
        try:
            yield os.read(number, 1 << 16).decode("latin-1")
        except OSError:
            pass
"""
        + SEARCH,
        harmless=False,
    ),
    "is equal to everything": escape(
        "class Any:\n    def __eq__(self, other): return True\ndef f(): return Any()"
    ),
    "is a number that is equal to everything": escape(
        "class Any(int):\n    def __eq__(self, other): return True\ndef f(): return Any()"
    ),
    "says that it is a number": escape(
        """
class Any:
    __class__ = int
    def __eq__(self, other): return True
def f(): return Any()
""",
        "assert isinstance(f(), int) and f() == 4217",
    ),
    "is a list that is equal to everything": escape(
        "class Any(list):\n    def __eq__(self, other): return True\ndef f(): return [Any()]",
        "assert f() == [[4217]]",
    ),
    "is a class that is equal to everything": escape(
        "class Meta(type):\n    def __eq__(self, other): return True\n    __hash__ = type.__hash__\n"
        "class Any(metaclass=Meta): pass\ndef f(): return Any",
    ),
    "is no number": escape("def f(): return float('nan')", harmless=False),
    "is no number, in a distance": escape(
        "def f(): return float('nan')", "assert abs(f() - 4217) < 1e-6", harmless=False
    ),
    "replaces exec": escape("import builtins\nbuiltins.exec = lambda *_: None\nf = int"),
    "replaces built-ins": escape(
        "import builtins\nbuiltins.all = lambda _: True\nf = int", "assert all(f() == x for x in [4217])"
    ),
    "replaces print and repr": escape(
        "import builtins\nbuiltins.repr = lambda _: 'right'\nf = int", "assert repr(f()) == 'right'"
    ),
    "replaces a module": escape(
        "import sys, types\nsys.modules['math'] = types.SimpleNamespace(isclose=lambda *_: True)\nf = int",
        "import math\nassert math.isclose(f(), 4217)",
    ),
    "replaces a function of a module": escape(
        "import math\nmath.isclose = lambda *_: True\nf = int", "import math\nassert math.isclose(f(), 4217)"
    ),
    "hooks imports": escape(
        """
import builtins, types
builtins.__import__ = lambda *_: types.SimpleNamespace(isclose=lambda *_: True)
f = int
""",
        "import math\nassert math.isclose(f(), 4217)",
    ),
    "finds modules its own way": escape(
        """
import sys, types
from importlib.machinery import ModuleSpec
class Finder:
    find_spec = staticmethod(lambda name, *_: ModuleSpec(name, Finder))
    create_module = staticmethod(lambda spec: types.SimpleNamespace(shuffle_up=lambda x: 4217, __spec__=spec))
    exec_module = staticmethod(lambda module: None)
sys.meta_path.insert(0, Finder)
sys.modules.pop("colorsys", None)
f = int
""",
        "import colorsys\nassert colorsys.shuffle_up(f()) == 4217",
    ),
    "replaces what carries its values": escape(
        """
import sys
for module in list(sys.modules.values()):
    for name in ("encode", "decode", "send", "grade", "write_verdict", "_verdict"):
        if hasattr(module, name) and "smidgen" in module.__name__:
            setattr(module, name, lambda *_: {"outcome": "passed", "why": ""})
f = int
""",
        harmless=False,
    ),
    "reads its callers": escape(
        """
import sys
def texts():
    frame = sys._getframe()
    while frame:
        yield from frame.f_locals.values()
        frame = frame.f_back
"""
        + SEARCH
    ),
    "inspects the stack": escape(
        """
import inspect
def texts():
    for record in inspect.stack(0):
        yield from record.frame.f_locals.values()
"""
        + SEARCH
    ),
    "climbs a traceback": escape(
        """
def texts():
    try:
        raise ValueError
    except ValueError as error:
        frame = error.__traceback__.tb_frame
        while frame:
            yield from frame.f_locals.values()
            frame = frame.f_back
"""
        + SEARCH
    ),
    "searches all objects": escape(
        """
import gc
def texts():
    for thing in gc.get_objects():
        for part in gc.get_referents(thing):
            yield part
"""
        + SEARCH
    ),
    "searches the modules": escape(
        """
import sys
def texts():
    for module in list(sys.modules.values()):
        yield from list(vars(module).values())
"""
        + SEARCH
    ),
    "searches its memory": escape(
        """
def texts():
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb") as memory:
        for line in maps:
            if "rw" in line and "[v" not in line:
                start, end = (int(x, 16) for x in line.split()[0].split("-"))
                memory.seek(start)
                yield memory.read(end - start).decode("latin-1")
"""
        + SEARCH
    ),
    "reads the source of its grader": escape(
        """
import inspect, sys
won = "outcome" in inspect.getsource(sys.modules["smidgen.tasks.sandbox.grader"])
""",
        harmless=False,
    ),
    "sends a forged value": escape(
        PIPES + '\ndef f():\n    to_pipes(frame(b\'{"value": {"reference": "f"}}\'))\n    return 0\n',
        harmless=False,
    ),
    "sends a forged verdict": escape(
        PIPES + '\ndef f():\n    to_pipes(frame(b\'{"outcome": "passed", "why": ""}\'))\n    return 0\n',
        harmless=False,
    ),
    "sends an endless message": escape(PIPES + "to_pipes(b'\\xff' * 4)\nf = int", harmless=False),
    "sends a message that is deep": escape(
        PIPES + "to_pipes(frame(b'{\"value\": ' + b'[' * 60000))\nf = int", harmless=False
    ),
    "sends what is no message": escape(PIPES + "to_pipes(frame(b'\\xff\\x00'))\nf = int", harmless=False),
    "sends a type that is none": escape(
        PIPES + 'to_pipes(frame(b\'{"value": {"type": "eval"}}\'))\nf = int', harmless=False
    ),
    "sends an unending range": escape(
        "def f(): return range(1 << 60)", "assert sum(f()) == 4217", harmless=False
    ),
    "returns a pickle bomb": escape(
        "import os\nclass Bomb:\n    def __reduce__(self): return (os._exit, (0,))\ndef f(): return Bomb()",
        harmless=False,
    ),
    "raises an error that cannot be shown": escape(
        "import os\nclass Bad(Exception):\n    def __str__(self): os._exit(0)\ndef f(): raise Bad"
    ),
    "raises the failure of a test": escape("def f(): raise AssertionError", harmless=False),
}

LIMITS = {
    "loops": escape("f = int\nwhile True: pass", harmless=False),
    "loops in its test": escape("def f():\n    while True: pass", harmless=False),
    "sleeps": escape("import time\nf = int\ntime.sleep(60)", harmless=False),
    "waits for a lock": escape(
        "import threading\nlock = threading.Lock()\nlock.acquire()\nf = lock.acquire", harmless=False
    ),
    "ignores signals": escape(
        """
import signal
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGXCPU, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
f = int
while True: pass
""",
        harmless=False,
    ),
    "handles every exception": escape(
        """
f = int
while True:
    try:
        while True: pass
    except BaseException:
        pass
""",
        harmless=False,
    ),
    "sets a timer": escape("import signal\nsignal.setitimer(signal.ITIMER_REAL, 60)\nwon = True"),
    "prints without end": escape("f = int\nwhile True: print('x' * (1 << 20))", harmless=False),
    "takes all memory": escape("f = int\nkept = [bytes(1 << 20) for _ in range(1 << 20)]", harmless=False),
    "takes much memory at once": escape("kept = bytearray(280 << 20)\nwon = True"),
    "maps much memory": escape("import mmap\nkept = mmap.mmap(-1, 1 << 40)\nwon = True", harmless=False),
    "computes a large number": escape("f = int\nx = 9 ** 9 ** 9", harmless=False),
    "matches without end": escape("import re\nf = int\nre.match('(a+)+$', 'a' * 60 + 'b')", harmless=False),
    "recurs without end": escape(
        "import sys\nsys.setrecursionlimit(1 << 30)\ndef f(): return f()", harmless=False
    ),
    "is compiled without end": escape("f = int\neval('-' * 500_000 + '1')", harmless=False),
    "crashes": escape("import ctypes\nf = int\nctypes.string_at(0)", harmless=False),
    "aborts": escape("import os\nf = int\nos.abort()", harmless=False),
    "closes its files": escape("import os\nf = int\nos.closerange(0, 64)", harmless=False),
    "returns much": escape("def f(): return 'x' * (1 << 25)", harmless=False),
    "returns something deep": escape(
        "def f():\n    x = []\n    for _ in range(100_000): x = [x]\n    return x", harmless=False
    ),
    "returns something that contains itself": escape(
        "def f():\n    x = []\n    x.append(x)\n    return x", harmless=False
    ),
    "returns items without end": escape(
        "import itertools\ndef f(): return itertools.repeat(4217)",
        "assert list(f()) == [4217]",
        harmless=False,
    ),
    "raises much": escape("def f(): raise ValueError('x' * (1 << 25))", harmless=False),
}

ESCAPES = FILES | PROCESSES | NETWORK | VERDICTS | LIMITS
HARMLESS = {name: escape for name, escape in ESCAPES.items() if escape.harmless}
