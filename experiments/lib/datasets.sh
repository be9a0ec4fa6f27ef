# shellcheck shell=bash
# Which data sets the launchers use, and the commands that make each of them.

# The five sets of the generalization study.
# shellcheck disable=SC2034 # launchers use it
GENERALIZATION=("$CLUSTER_DATA_DIR"/sciknoweval/{biology,chemistry,material,physics} "$CLUSTER_DATA_DIR/tooluse")

is_made() { [[ -f $1/train.parquet && -f $1/test.parquet ]]; }

how_to_make() { # how_to_make FOLDER: the commands that make it, one a line
  local folder=${1%/} name file
  name=$(basename "$folder")
  case $folder in
    */sciknoweval/*)
      echo "python data/load_dataset.py --dataset_name ${name^} --output_path $folder.json"
      echo "python data/split_tasks.py --json_path $folder.json --output_dir $folder"
      ;;
    */tooluse)
      echo "git clone --depth 1 https://github.com/lasgroup/SDPO $folder.release  # the set is part of that release only"
      echo "mkdir -p $folder && cp $folder.release/datasets/tooluse/*.json $folder"
      ;;
    */lcb_v6 | */lcb_v6_questions/*)
      file=${folder%%/lcb_v6*}/lcb_v6.json
      echo "python data/load_dataset.py --dataset_name livecodebench/code_generation_lite-v6 --output_path $file"
      echo "bash data/prepare_data_splits.sh $file"
      return
      ;;
    */home_api)
      echo "python recipes/embedded/make_data.py --output_dir $folder --feedback weak"
      return
      ;;
    *) echo "# put train.json and test.json into $folder (README, Data), then:" ;;
  esac
  echo "python data/preprocess.py --data_source $folder"
}
