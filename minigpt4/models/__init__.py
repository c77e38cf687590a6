"""Models; importing the package registers them."""

from minigpt4.models import language as language
from minigpt4.models import minigpt_v2 as minigpt_v2
from minigpt4.models import vision as vision
