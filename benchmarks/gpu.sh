# The whole run on a GPU machine, from the root of the repository, results in the folder $OUT: bash benchmarks/gpu.sh
# Wheels of rivals lie in .whl/, which travels with the tree:
# pip download --no-deps -d .whl geomloss liger_kernel monai pytorch_metric_learning tqdm
set -o pipefail; S=$(mktemp -d); export PYTHONUNBUFFERED=1 PYTHONPATH=$S/site:$PWD TRITON_CACHE_DIR=$S/tc TORCHINDUCTOR_CACHE_DIR=$S/ti PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target $S/site .whl/*.whl || echo NO WHEELS
nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv | tee $OUT/gpu.txt
g="timeout 30 python3 benchmarks/gpu.py --out $OUT/gpu.jsonl --only"
$g ceilings 2>&1 | tee -a $OUT/log
timeout 120 python3 -m pytest tests/gpu -m gpu -p xdist.plugin -n 12 -q -W default --tb=short -p no:cacheprovider --junitxml=$OUT/tests.xml 2>&1 | tee $OUT/tests.log | tail -40
for p in likelihood dice crossover contrastive queue advantages segments losses; do echo "== $p"; $g $p 2>&1 | tee -a $OUT/log | tail -14 || echo "PART FAILED $p"; done
python3 benchmarks/gpu.py --table $OUT/gpu.jsonl
