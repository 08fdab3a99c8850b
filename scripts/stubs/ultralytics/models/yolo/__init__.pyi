from ultralytics.models.yolo import classify as classify
from ultralytics.models.yolo import depth as depth
from ultralytics.models.yolo import detect as detect
from ultralytics.models.yolo import obb as obb
from ultralytics.models.yolo import pose as pose
from ultralytics.models.yolo import segment as segment
from ultralytics.models.yolo import semantic as semantic
