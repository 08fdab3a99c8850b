"""Types of what yoloprune and its scripts use of Ultralytics by its public names.

Ultralytics annotates few attributes, and a type checker takes the rest for what they begin as, most of them None. What
is not here is looked up in the installed release.
"""

from ultralytics.engine.model import Model

__version__: str

class YOLO(Model): ...
class YOLOE(Model): ...
class RTDETR(Model): ...
