# For all scripts that run on the login node. Answers are lines of fields with | between them.
if ! command -v squeue > /dev/null; then
  [ ! -r /etc/profile ] || . /etc/profile > /dev/null 2>&1 || :  # sites that put Slurm on PATH for logins only
fi
case $root in '~') root=$HOME ;; '~/'*) root=$HOME/${root#'~/'} ;; esac

say() { local IFS='|'; printf '%s\n' "$*"; }
flat() { tr '\n|' ' /'; }
keep() {  # whole or not at all
  local new=${1%/*}/.${1##*/}.$BASHPID
  printf '%s\n' "$2" > "$new" && mv -f "$new" "$1"
}
need() { command -v "$1" > /dev/null || { say refused "there is no $1 on $(hostname); PATH there is $PATH"; exit; }; }

lock() {  # the job's folder, for one at a time; fd 9 is closed for whatever may outlive us
  mkdir -p "$1" 2> /dev/null || { say refused "$1 cannot be made on $(hostname); set scratch"; exit; }
  exec 9> "$1/lock"
  local text
  if ! text=$(flock -w 60 9 2>&1); then
    [ -z "$text" ] || { say refused "$1 cannot be locked ($text); set scratch to a file system with locks"; exit; }
    say unsure "somebody else holds $1/lock"
    exit
  fi
}
