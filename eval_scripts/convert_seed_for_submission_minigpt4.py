"""SEED-Bench accuracy of a result file, by question type.

python eval_scripts/convert_seed_for_submission_minigpt4.py \
    --annotation-file evaluation_dataset/seed/SEED-Bench-image.json --result-file evaluation_results/seed.jsonl
"""

from minigpt4.cli import run_script

if __name__ == "__main__":
    run_script("convert", "convert_seed_for_submission_minigpt4.py", "seed")
