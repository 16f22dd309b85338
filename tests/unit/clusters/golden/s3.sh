#!/bin/bash
# A job of Penstock: array
#SBATCH --no-requeue
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --ntasks=4
#SBATCH --cpus-per-task=1

folder=s3://bucket/jobs/k3
workspace="$TMPDIR"
items=1000 cpus=1 minutes=0
python=python3
program=(prog)
launch=(auto)
copy=(aws s3 cp)
inputs=(s3://bucket/in data '/a b' c)
results=('result.*' log)
environment() {
  :
}
prologue() {
  :
}

(job.sh)
