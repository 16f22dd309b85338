# Given: root id counts (1: the new attempt has the next number; 0: it goes on with this one)
if ! read -r where 2> /dev/null < "$root/ids/$id"; then say refused "there is no job $id below $root"; exit; fi
job=$root/jobs/${where%/*} life=${where##*/}
lock "$job"
if [ "$(cat "$job/life" 2> /dev/null || echo 1)" = "$life" ]; then
  next=$job/$((life + 1))
  rm -rf "$next"  # of a call that was ended half way
  mkdir "$next"
  keep "$next/attempt" "$(($(cat "$job/$life/attempt") + counts))"
  IFS='|' read -r _ _ items < "$job/about"
  shopt -s nullglob
  good=("$job/$life"/exit.*=0)
  if [ "${#good[@]}" -lt "$items" ] && [ "${#good[@]}" -gt 0 ]; then
    printf '%s\0' "${good[@]}" | xargs -0 cp -t "$next"
  fi
  keep "$job/life" "$((life + 1))"
fi
say id "$id"
