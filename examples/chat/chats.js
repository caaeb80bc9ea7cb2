// Where the messages of a chat are kept: a file each, in the folder of the process.
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';

const FOLDER = '.chats';
const fileOf = (id) => `${FOLDER}/${id}.json`;

await mkdir(FOLDER, { recursive: true });

/** Return the messages of a chat, none if it is new. */
export async function readChat(id) {
  try {
    return JSON.parse(await readFile(fileOf(id), 'utf8'));
  } catch (error) {
    if (error.code === 'ENOENT') return [];
    throw error;
  }
}

/** Keep the messages of a chat. A reader gets the old ones or the new ones meanwhile. */
export async function saveChat(id, messages) {
  await writeFile(`${fileOf(id)}.new`, JSON.stringify(messages));
  await rename(`${fileOf(id)}.new`, fileOf(id));
}
