# Given: root id name offset
if ! read -r where 2> /dev/null < "$root/ids/$id"; then say refused "there is no job $id below $root"; exit; fi
record=$root/jobs/$where folder=$(cat "$root/jobs/${where%/*}/folder")
case $folder in *://*) file=$record/$name ;; *) file=$folder/$name ;; esac
size=$(stat -c %s "$file" 2> /dev/null || echo 0)
[ "$size" -ge "$offset" ] || offset=0  # begun anew
[ $((size - offset)) -le 1000000 ] || size=$((offset + 1000000))
say next "$size"
[ "$size" -eq "$offset" ] || tail -c "+$((offset + 1))" "$file" | head -c "$((size - offset))"
