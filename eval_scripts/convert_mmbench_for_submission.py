"""MMBench's sheet for its evaluation server, from a result file.

python eval_scripts/convert_mmbench_for_submission.py \
    --annotation-file evaluation_dataset/mmbench/mmbench_dev_20230712.tsv \
    --result-file evaluation_results/mmbench.jsonl --output-file evaluation_results/mmbench.xlsx
"""

from minigpt4.cli import run_script

if __name__ == "__main__":
    run_script("convert", "convert_mmbench_for_submission.py", "mmbench")
