"""Train on the mixture of datasets that a YAML file describes: `minigpt4 train` by its published name.

torchrun --nproc_per_node 8 train.py --cfg-path train_configs/minigptv2_finetune_dataengine.yaml
python train.py --cfg-path my.yaml --options run.device=cpu run.max_epoch=1   # one process
python train.py --cfg-path my.yaml --check          # is everything there? `--check full` opens every image too
python train.py --cfg-path my.yaml --preview 4      # preview.html: samples as the model gets them
"""

from minigpt4.cli import run_script


def main() -> None:
    """Train, as the command line says. Raises: SystemExit where the exit code is not 0."""
    run_script("train", "train.py")


if __name__ == "__main__":
    main()
