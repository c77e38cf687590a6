"""Download URLs of the training data that `url:` in configs/datasets/ does not have; docs/data.md is made from both."""

VISUAL_GENOME = "https://cs.stanford.edu/people/rak248/VG_100K_2"
LLAVA = "https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K/resolve/main"
REFER = "https://bvisionweb1.cs.unc.edu/licheng/referit/data"
DRIVE = "https://drive.google.com"

COCO_IMAGES = "http://images.cocodataset.org/zips/train2014.zip"
GQA_IMAGES = "https://downloads.cs.stanford.edu/nlp/data/gqa/images.zip"
OCRVQA = f"{DRIVE}/drive/folders/1_GYPY5UkUy7HIcR0zq3ZCFgeZN7BAfm_"
OCRVQA_IMAGES = "loadDataset.py, in the folder of the annotations, which downloads them"
TEXTCAPS = "https://dl.fbaipublicfiles.com/textvqa/data/textcaps/TextCaps_0.1_train.json"
TEXTCAPS_IMAGES = "https://textvqa.org/textcaps/dataset"
DATA_ENGINE = (
    "https://huggingface.co/datasets/juliozhao/dataengine_minigpt4 or "
    "https://openxlab.org.cn/datasets/zzy8782180/DataEngine-InstData"
)
VG_IMAGES = f"{VISUAL_GENOME}/images.zip and {VISUAL_GENOME}/images2.zip"
VG_REGIONS = (
    "https://homes.cs.washington.edu/~ranjay/visualgenome/data/dataset/image_data.json.zip "
    "(region_descriptions.json.zip is in the same folder)"
)
FLICKR = f"{DRIVE}/drive/folders/19c_ggBI77AvdtYlPbuI0ZpnPz73T5teX"
FLICKR_IMAGES = (
    "https://www.kaggle.com/datasets/hsankesara/flickr-image-dataset/download or "
    "https://forms.illinois.edu/sec/229675 (a form)"
)
MULTITASK = f"{DRIVE}/file/d/11HHqB2c29hbSk-WLxdta-nG8UCUrcCN1/view"
UNNATURAL = f"{DRIVE}/file/d/1lXNnBcb5WU-sc8Fe2T2N8J0NRw4sBLev/view"
LLAVA_CONVERSATION = f"{LLAVA}/conversation_58k.json"
LLAVA_DETAIL = f"{LLAVA}/detail_23k.json"
LLAVA_REASON = f"{LLAVA}/complex_reasoning_77k.json"
CC_SBU_ALIGN = "MiniGPT-4's home page (second-stage data)"
STREAMS = "MiniGPT-4's home page (first-stage data: shards written by img2dataset)"
