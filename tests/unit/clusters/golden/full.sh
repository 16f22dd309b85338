#!/bin/bash
# A job of Penstock: n-code-name-rm--rf
#SBATCH --no-requeue
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --partition=c7
#SBATCH --account=ab12
#SBATCH --qos=long
#SBATCH --constraint=ib&skylake
#SBATCH --nodes=2
#SBATCH --ntasks=8
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --gres=gpu:2
#SBATCH --time=31
#SBATCH --signal=B:USR1@120
#SBATCH --dependency=afterok:12:77
#SBATCH --exclusive
#SBATCH --mail-user=a@b.c

folder='/data/jobs/k 2'
workspace=""
items=1 cpus=4 minutes=31
python=/opt/py/bin/python3
program=(prog 'a b' '$HOME' 'it'"'"'s' '')
launch=(srun --mpi=pmix apptainer exec image.sif)
copy=(penstock copy)
inputs=()
results=()
environment() {
export A='x '"'"'y'"'"' $z'
export B=2
  :
}
prologue() {
module load gcc/12
source ~/v/bin/activate
  :
}

(job.sh)
